"""Numbered pages, and pages behind a cursor.

Attached by ``Query.page`` and ``Query.paginate``.
"""
