"""Computed and related fields, in memory and stored.

Builds on ``locking``: a recomputed value that stays the same is locked, so that two transactions
that change the fields it depends on conflict.
"""
