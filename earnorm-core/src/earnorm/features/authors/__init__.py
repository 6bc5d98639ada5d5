"""``created_by`` and ``updated_by``: fields that say who acted.

Attached by a document step.
"""
