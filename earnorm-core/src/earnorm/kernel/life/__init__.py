"""The life of an App: its settings, its start and stop, and the work that it has under way."""
