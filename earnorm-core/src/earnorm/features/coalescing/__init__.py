"""Searches by id that run at the same time become one.

Attached by a layer around searches, in Apps with ``coalesce=True``.
"""
