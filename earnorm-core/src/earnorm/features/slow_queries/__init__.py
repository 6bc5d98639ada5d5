"""Records slow operations, and the shapes of their queries.

Attached by a layer around reads, writes and deletions, in Apps with ``slow_query=``.
"""
