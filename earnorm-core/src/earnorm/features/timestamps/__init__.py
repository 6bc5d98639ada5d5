"""``auto_now`` and ``auto_now_add``."""
