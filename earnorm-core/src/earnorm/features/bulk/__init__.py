"""Many writes sent together: ``bulk()`` and ``create_many()``."""
