"""Distributions with one plugin, written by hand: what pip would have left on the disk."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_distribution(
    root: Path, name: str, source: str, *, requires: str = "earnorm-core>=0.1,<0.2"
) -> tuple[Path, str]:
    """A distribution earnorm-NAME 1.2 whose module has a class ``Plugin``.

    Returns:
        The directory for ``sys.path``, and the module's name.
    """
    module = f"earnorm_{name}_{uuid.uuid4().hex[:8]}"
    site = root / module
    info = site / f"earnorm_{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: earnorm-{name}\nVersion: 1.2\nRequires-Dist: {requires}\n"
    )
    (info / "entry_points.txt").write_text(f"[earnorm.plugins]\n{name} = {module}:Plugin\n")
    return site, module
