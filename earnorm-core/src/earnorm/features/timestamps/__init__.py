"""``auto_now`` and ``auto_now_add``: fields that the clock sets.

Attached by a document step.
"""
