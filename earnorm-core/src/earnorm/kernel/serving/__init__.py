"""The end of the layers: what is sent to the database, and how its answers are read."""
