"""Fill in the middle: from a place in a file to the text that belongs there.

    target → source → hole → window (+ context of other files) → backend → stops, trims → middle

Each word is a module here; :mod:`fill` puts them together.
"""
