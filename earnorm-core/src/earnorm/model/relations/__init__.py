"""Relations: ghosts, prefetching, links and commands."""
