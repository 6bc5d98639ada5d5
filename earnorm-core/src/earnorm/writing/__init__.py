"""From values and records to create, write and unlink operations: the one write pipeline."""
