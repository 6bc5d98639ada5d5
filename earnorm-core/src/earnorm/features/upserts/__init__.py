"""Write an existing record, or create it.

Attached by the class methods ``upsert`` and ``upsert_many``. Builds on ``indexes``: a unique index
makes it safe against races.
"""
