"""The names of the kit, and what importing it costs others: nothing."""

from __future__ import annotations

import subprocess
import sys

import earnorm.testing
from tests.core.test_public_names import KIT


def test_these_are_its_names() -> None:
    assert sorted(earnorm.testing.__all__) == KIT


def modules_after(program: str) -> set[str]:
    """The names of the modules that a program has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_a_program_does_not_load_it_and_it_does_not_load_pytest() -> None:
    loaded = modules_after(
        "import earnorm, earnorm.application, earnorm.plugin, earnorm.kernel.app"
    )
    assert not [name for name in loaded if name.startswith("earnorm.testing")]
    loaded = modules_after("import earnorm.testing")
    assert "earnorm.testing.factories" in loaded
    assert not loaded & {"pytest", "pytest_asyncio", "anyio", "earnorm.testing.fixtures"}
