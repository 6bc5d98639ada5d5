"""The changes of records as they happen."""
