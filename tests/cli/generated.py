"""Plugins that ``earnorm new plugin`` writes, run without an installation: what pip would have left is written by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

import earnorm
from earnorm.cli.application import application


@dataclass(frozen=True)
class Generated:
    """A project that was written.

    Attributes:
        root: Its folder.
        site: A folder for ``sys.path`` with the metadata of its distribution.
    """

    root: Path
    site: Path

    def run(self, module: str, *arguments: str) -> str:
        """Run a module of Python in it, with its sources.

        Raises:
            AssertionError: It failed; the message is what it printed.
        """
        sources = os.pathsep.join([str(self.root / "src"), str(self.site)])
        core = Path(earnorm.__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")]),
                # An installed EarnORM is found without it.
                "MYPYPATH": str(core) if core.name == "src" else "",
                "EARNORM_PLUGINS": "",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def generate(where: Path, name: str, *arguments: str) -> Generated:
    """Write a plugin with ``earnorm new plugin``, and the metadata that an installation leaves."""
    result = CliRunner().invoke(
        application, ["new", "plugin", name, "--in", str(where), *arguments]
    )
    assert result.exit_code == 0, result.output
    return installed_by_hand(where / f"earnorm-{name.replace('_', '-')}", where)


def installed_by_hand(root: Path, where: Path) -> Generated:
    """Write the metadata of a project's distribution."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    site = where / f"site-{root.name}"
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in project["dependencies"])
    )
    points = project["entry-points"]["earnorm.plugins"]
    lines = "".join(f"{name} = {place}\n" for name, place in points.items())
    (info / "entry_points.txt").write_text(f"[earnorm.plugins]\n{lines}")
    return Generated(root, site)
