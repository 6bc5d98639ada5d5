"""``search(...).lock()``."""
