"""Numbered pages, and pages that begin or end at a cursor.

Attached by ``Query.page`` and ``Query.paginate``.
"""
