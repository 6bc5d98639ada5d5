"""The changes of records as they happen, from the database's change streams.

Attached by the class method ``watch``. Builds on ``indexes``, which reads the option ``pre_images``
of a collection.
"""
