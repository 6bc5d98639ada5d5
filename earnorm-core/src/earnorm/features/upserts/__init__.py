"""Write the record that is there, or create it.

Attached by the class methods ``upsert`` and ``upsert_many``. Builds on ``indexes``: a unique index is what makes it
safe against races.
"""
