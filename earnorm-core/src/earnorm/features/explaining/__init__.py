"""The database's query plan of a search, in words, and the access rules of a query.

Attached by ``Query.explain`` and ``Query.why``.
"""
