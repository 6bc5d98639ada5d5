"""Observers of an App and what they are told, and the hooks before and after a write."""
