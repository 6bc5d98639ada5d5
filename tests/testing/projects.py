"""Small projects with tests of their own, run by pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

CONFTEST = 'pytest_plugins = ["earnorm.testing.fixtures"]\n'


def run_pytest(
    directory: Path, tests: str, *arguments: str, settings: str = "", conftest: str = CONFTEST
) -> subprocess.CompletedProcess[str]:
    """Write a project into a directory and run its tests.

    Args:
        directory: Where the project lies.
        tests: The file with tests.
        arguments: Those of pytest.
        settings: Lines of `[pytest]` in its pytest.ini.
        conftest: Its conftest.py.
    """
    (directory / "conftest.py").write_text(dedent(conftest))
    (directory / "test_it.py").write_text(dedent(tests))
    (directory / "pytest.ini").write_text("[pytest]\n" + dedent(settings))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
