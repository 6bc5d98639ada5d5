"""Rules that values are held to before they are written."""
