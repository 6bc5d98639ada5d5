"""Computed and related fields: what they depend on, and how stored ones are kept in step."""
