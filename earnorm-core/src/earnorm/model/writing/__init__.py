"""The one write path: turns values into operations."""
