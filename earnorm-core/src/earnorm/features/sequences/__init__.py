"""Numbers without gaps or repeats.

Attached by a document step that numbers new records, and by ``earnorm.sequence``.
"""
