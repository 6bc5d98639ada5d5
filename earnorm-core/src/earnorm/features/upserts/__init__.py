"""Write the record that is there, or create it."""
