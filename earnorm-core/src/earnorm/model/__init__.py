"""What a class body declares, and what a record, a RecordSet and a Query can do."""
