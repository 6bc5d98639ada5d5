"""Recomputes that are too large for the transaction of the change, and so are owed.

A document in that transaction says what is owed; after the commit it is worked off in chunks.
"""
