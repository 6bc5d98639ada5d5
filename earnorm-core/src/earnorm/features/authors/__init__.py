"""``created_by`` and ``updated_by``: who acted."""
