"""From a query to documents, and from documents to records, pages, groups, tables and JSON."""
