"""Computed and related fields, in memory and stored.

Builds on ``locking``: a stored value that stays the same is locked, so that changes of what it depends on clash.
"""
