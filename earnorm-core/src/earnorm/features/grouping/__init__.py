"""Groups with aggregates, and MongoDB's own pipelines over what a query is about.

Attached by ``Query.group`` and ``Query.aggregate``.
"""
