"""The command of the plugin: a function as typer takes it; ``app`` is a started App."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import earnorm

if TYPE_CHECKING:
    from earnorm import App

    from earnorm_slugs.services import Slugs


async def fill(model: str, app: App) -> None:
    """Give a slug to each stored record that has none."""
    slugs = cast("Slugs", app.services["slugs"])
    with earnorm.system(reason="earnorm slugs-fill"):
        print(await slugs.fill(app.model(model)), "slugs")
