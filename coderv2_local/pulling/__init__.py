"""Getting a model by its name: what is meant, whose terms hold, and the ready file fetched and entered.

Building one from the published weights is the converters' work; `cli/pull.py` puts the two together.
"""
