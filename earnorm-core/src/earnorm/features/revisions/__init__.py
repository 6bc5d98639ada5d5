"""``_versioned``: a lost update is refused."""
