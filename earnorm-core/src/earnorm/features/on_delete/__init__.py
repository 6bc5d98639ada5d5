"""What a deletion means for the records that point at what is deleted."""
