"""Searches leave archived records out: ``mixins.SoftDelete``."""
