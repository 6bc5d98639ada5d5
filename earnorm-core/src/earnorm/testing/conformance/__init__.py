"""The conformance suite: checks that a plugin keeps the contract, for the tests of its author."""

from earnorm.testing.conformance.checks import Check, Outcome, Result
from earnorm.testing.conformance.running import (
    CHECKS,
    PluginBreaksContract,
    check_plugin,
    plugin_tests,
)

__all__ = [
    "CHECKS",
    "Check",
    "Outcome",
    "PluginBreaksContract",
    "Result",
    "check_plugin",
    "plugin_tests",
]
