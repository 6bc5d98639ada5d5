"""Which package each field, index, rule and declaration of a model comes from.

Attached by ``App.parts`` and the command ``earnorm models``. Builds on ``indexes``, which reads declared indexes.
"""
