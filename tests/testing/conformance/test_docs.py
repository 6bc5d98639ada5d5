"""The plugins that the documentation shows keep the contract that it tells of."""

from __future__ import annotations

import types
from typing import Any

import pytest

from earnorm import BaseModel, forget
from earnorm.testing import check_plugin
from tests.docs.blocks import blocks

SHOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "StampPlugin": ("docs/plugins.md", {}),  # the one line that plugin-testing.md recommends
    "ShoutPlugin": ("docs/plugin-testing.md", {"idle": None, "changes": {"text"}}),
}


@pytest.mark.parametrize("name", SHOWN)
async def test_a_plugin_of_the_documentation_passes(name: str) -> None:
    page, options = SHOWN[name]
    code = next(b.code for b in blocks() if b.page == page and f"class {name}:" in b.code)
    program = types.ModuleType("earnorm_shown")
    exec(code.replace("asyncio.run(main())", ""), vars(program))
    models = [
        value
        for value in vars(program).values()
        if isinstance(value, type) and issubclass(value, BaseModel)
    ]
    try:
        await check_plugin(getattr(program, name), **options)
        await check_plugin(getattr(program, name), models=models, **options)
    finally:
        for model in models:
            forget(model)
