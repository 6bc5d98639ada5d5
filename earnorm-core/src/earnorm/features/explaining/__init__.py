"""The database's query plan of a search, in words.

Attached by ``Query.explain``.
"""
