"""Numbers without gaps or repeats."""
