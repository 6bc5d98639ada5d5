"""Records that lead to other records: ghosts, prefetch, commands on to-many fields, trees."""
