"""Numbered pages and cursors."""
