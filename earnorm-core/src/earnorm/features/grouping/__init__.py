"""Groups with aggregates, and MongoDB's own pipelines over the records of a query.

Attached by ``Query.group`` and ``Query.aggregate``.
"""
