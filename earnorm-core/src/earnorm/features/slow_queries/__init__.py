"""Notes operations that took long."""
