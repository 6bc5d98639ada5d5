"""Searches by id that run at the same time become one."""
