"""Computed and related fields, in memory and stored."""
