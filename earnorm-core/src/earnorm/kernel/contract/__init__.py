"""Checks of what plugins hand in and return, and of what an App leaves out."""
