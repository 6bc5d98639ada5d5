"""``auto_now`` and ``auto_now_add``: fields that are set to the current time.

Attached by a document step.
"""
