"""Indexes, document rules and collection options: declared, prepared, compared, advised.

Attached by ``prepare_model``, which creates missing indexes and collections before a model's first
operation, by the App's ``indexes``, and by the commands ``earnorm indexes …``.

The advice builds on ``slow_queries``, which gives the shapes of queries, and on ``explaining``,
which reads the server's plans.
"""
