"""The one write path: from values to operations."""
