"""A model behind HTTP, for editors and other programs: OpenAI's interface and llama-server's.

    connection → guard → body → fields → job → queue → worker → events → connection

Each word is a module here; :mod:`app` puts them together and :mod:`server` runs them.
"""
