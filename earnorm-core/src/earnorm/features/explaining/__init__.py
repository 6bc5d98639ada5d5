"""The database's query plan of a search, described in words.

Attached by ``Query.explain``.
"""
