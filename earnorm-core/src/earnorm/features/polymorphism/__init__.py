"""Several classes in one collection."""
