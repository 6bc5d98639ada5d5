"""``on_delete``: restrict a deletion, or empty or delete the records that point at deleted ones."""
