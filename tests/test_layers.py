"""Import-linter's ``exhaustive`` ends at a room's door; inside, each module is named here or this fails."""

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_CORE = _ROOT / "earnorm-core" / "src" / "earnorm"


def test_each_module_of_a_shared_room_belongs_to_one_layer() -> None:
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    [rooms] = [contract for contract in contracts if contract["id"] == "rooms"]
    named = [name for layer in rooms["layers"] for name in re.findall(r"[\w.]+", layer)]
    modules = {
        f"{room}.{file.stem}"
        for room in rooms["exhaustive_ignores"]
        for file in (_CORE / room).glob("*.py")
        if file.stem != "__init__"
    }

    assert len(named) == len(set(named))
    assert modules == {name for name in named if "." in name}
