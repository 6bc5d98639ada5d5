"""Which package each part of a model comes from."""
