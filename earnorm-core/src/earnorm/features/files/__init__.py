"""The content of ``File`` fields: in GridFS, with its record.

Attached by the type of value that a ``File`` field gives, and by a layer around deletions.
"""
