"""Query plans in words."""
