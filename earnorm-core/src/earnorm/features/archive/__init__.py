"""Archived records (``mixins.SoftDelete``): searches leave them out unless they are asked for.

Attached by a base domain in ``register_reading``; the mixin has the field and the methods of a record, RecordSet
those of several.
"""
