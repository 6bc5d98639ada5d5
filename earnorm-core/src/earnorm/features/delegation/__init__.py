"""``_inherits``: a model with the fields of the record that it points at."""
