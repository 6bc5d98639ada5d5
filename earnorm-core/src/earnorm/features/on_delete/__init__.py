"""``on_delete``: restrict a deletion, or empty or delete the records that point at deleted ones.

Attached by two layers around deletions: one opens a transaction, the other does the consequences.
"""
