"""``_versioned``: refuses lost updates.

Attached by ``register_reading`` (the revision is always fetched) and by two document steps.
"""
