"""Runs a command beside servers, with their addresses in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence


def end_on_sigterm() -> None:
    """Make SIGTERM an ordinary exit of this program, so that the servers are stopped first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code, which is 128 + N for a death by signal N.

    Args:
        command: The program and its arguments.
        environment: Variables that are added to those of this process.
    """
    process = subprocess.Popen(command, env={**os.environ, **environment})
    # The command gets Ctrl-C as well, and decides what it means. This handler does nothing, because
    # an exception could come after the command's end and hide its exit code.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        if process.poll() is None:
            process.terminate()
            process.wait()
    return 128 - code if code < 0 else code
