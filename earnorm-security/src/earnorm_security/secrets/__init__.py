"""Fields with secret values: passwords, of which only a hash is kept, and encrypted values."""
