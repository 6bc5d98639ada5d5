"""``_inherits``: a model also has the fields of the record that it points at."""
