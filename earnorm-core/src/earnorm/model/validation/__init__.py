"""The rules that values must fulfil before they are written."""
