"""Locks on the records that a transaction reads, until it ends: ``search(...).lock()``.

Attached by ``Query.lock``.
"""
