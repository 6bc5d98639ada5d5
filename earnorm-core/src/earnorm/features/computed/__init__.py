"""Computed and related fields, in memory and stored.

Builds on ``locking``: a recomputed value that stays the same is locked, so that two transactions
that change the fields it depends on conflict. Builds on ``indexes``: a field that a unique index
reads is never recomputed later than the change.
"""
