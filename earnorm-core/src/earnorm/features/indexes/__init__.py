"""Indexes and collection options: declared, prepared, compared, advised.

The advice builds on ``slow_queries``, which tells the shapes of queries, and on ``explaining``, which reads
the server's plans.
"""
