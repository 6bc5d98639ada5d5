"""The content of ``File`` fields."""
