"""The changes of records as they happen, from the database's change streams.

Attached by the class method ``watch``. Builds on ``indexes``, which reads whether a collection keeps pre-images.
"""
