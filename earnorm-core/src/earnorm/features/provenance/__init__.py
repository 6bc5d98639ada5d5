"""The packages that the fields, indexes, rules and declarations of a model come from.

Attached by ``App.parts`` and the command ``earnorm models``. Builds on ``indexes``, which reads
declared indexes.
"""
