"""``_inherits``: a model also has the fields of the record that it points at.

Attached by the class attribute ``_inherits``, which adds related fields to the class, and by value
steps, which write their values to the other record. Builds on ``computed``, which reads and searches
related fields.
"""
