"""The one read path: from documents to records."""
