"""The settings: what is refused, and the table in the README."""

from __future__ import annotations

from pathlib import Path

import pytest
from earnorm import ConfigurationError
from earnorm.testing import app_with

from earnorm_slugs import SlugsPlugin, SlugsSettings

README = Path(__file__).parents[1] / "README.md"


async def test_a_wrong_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="max_length"):
        async with app_with(SlugsPlugin, slugs={"max_length": 0}):
            pass


async def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'tries'"):
        async with app_with(SlugsPlugin, slugs={"trie": 1}):
            pass


def test_the_readme_has_a_row_for_each_setting() -> None:
    rows = [row.split("`")[1] for row in README.read_text().splitlines() if row.startswith("| `")]
    assert set(SlugsSettings.model_fields) <= set(rows)
