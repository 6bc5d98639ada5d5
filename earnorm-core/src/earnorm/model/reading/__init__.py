"""The one read path: turns documents into records."""
