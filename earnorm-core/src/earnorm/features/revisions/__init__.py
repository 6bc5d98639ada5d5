"""``_versioned``: a lost update is refused.

Attached by ``register_reading`` (the count is always fetched) and by two document steps.
"""
