"""The content of ``File`` fields, which lies in GridFS and is deleted with its record.

Attached by the type of a ``File`` field's values, and by a layer around deletions.
"""
