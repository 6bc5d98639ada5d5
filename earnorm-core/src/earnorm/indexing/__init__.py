"""What models declare about collections and indexes, against what a database has."""
