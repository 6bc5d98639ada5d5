"""Indexes and collection options: declared, prepared, compared, advised."""
