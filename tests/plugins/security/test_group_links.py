"""Groups by what a Many2many links see of the linked records what a search of them would find."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, Count, Many2many, Principal, String, act_as, models, system
from earnorm.testing import app_with
from earnorm_security import Access, FieldRights, Rule


class Label(models.BaseModel):
    _name = "security.grouplinks.label"
    _access = [Access("*", read=True, aggregate=True)]
    _rules = [Rule("public", [("kind", "=", "public")], operations=["read"])]
    _field_rights = [FieldRights("secret", read=["chief"])]
    name = String()
    kind = String()
    secret = String()


class Page(models.BaseModel):
    _name = "security.grouplinks.page"
    _access = [Access("*", read=True, aggregate=True)]
    label_ids = Many2many(Label)


async def test_a_linked_record_that_may_not_be_read_is_none() -> None:
    async with app_with("security"):
        with system(reason="data"):
            labels = await Label.create(
                [{"name": "a", "kind": "public"}, {"name": "hidden", "kind": "private"}]
            )
            await Page.create([{"label_ids": labels}, {"label_ids": [labels[1]]}])
        with act_as(Principal("ann")):
            rows = await Page.search().group("label_ids.name", n=Count())
            assert rows == [{"label_ids.name": None, "n": 1}, {"label_ids.name": "a", "n": 1}]
            with pytest.raises(AccessDenied):
                await Page.search().group("label_ids.secret", n=Count())
