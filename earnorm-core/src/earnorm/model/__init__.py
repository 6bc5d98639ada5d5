"""Model classes, and the reading and writing of their records, RecordSets and Queries."""
