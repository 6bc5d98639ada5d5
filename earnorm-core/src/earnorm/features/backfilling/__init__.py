"""Writes defaults into stored documents that lack the field's key.

Nothing here has hooks: ``Model.backfill`` and ``earnorm recompute --defaults`` call it.
"""
