"""Relations: ghosts, prefetches, links and commands."""
