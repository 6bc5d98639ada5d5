"""Content of File fields follows the rules of its record."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, NotFound, Principal, act_as, models, system
from earnorm.fields import File, String
from earnorm.files import remove_orphans
from earnorm_security import Access, Rule


class Paper(models.BaseModel):
    _name = "security.paper"
    _access = [
        Access("author", read=True, write=True, create=True, unlink=True),
        Access("*", read=True),
    ]
    _rules = [Rule("open", lambda env: [("owner", "in", [env.principal.id, "everybody"])])]
    owner = String(required=True)
    content = File()


ANN = Principal("ann", roles=["author"])
EVE = Principal("eve", roles=["reader"])


async def test_only_who_may_write_the_record_writes_its_content(opened):
    async with opened() as app:
        with act_as(ANN):
            paper = await Paper.create({"owner": "everybody"})
            await paper.content.write(b"shared")
            mine = await Paper.create({"owner": "ann"})
            await mine.content.write(b"mine")
        with act_as(EVE):
            seen = await Paper.get(paper.id)
            assert await seen.content.read() == b"shared"
            # a record that somebody else read is no way around the rules
            with pytest.raises(NotFound):
                await mine.content.read()
            with pytest.raises((AccessDenied, NotFound)):
                await mine.content.write(b"forged")
            with pytest.raises(AccessDenied):
                await seen.content.write(b"forged")
            with pytest.raises(AccessDenied):
                await seen.content.delete()
        database = app.dangerous_raw("a look")
        assert await database["security_paper.content.files"].count_documents({}) == 2
        assert await database["security_paper.content.chunks"].count_documents({}) == 2
        with act_as(ANN):
            assert await mine.content.read() == b"mine"
            await paper.unlink()
        assert await database["security_paper.content.files"].count_documents({}) == 1


async def test_only_the_system_deletes_content_that_no_record_points_at(opened):
    async with opened():
        with act_as(ANN), pytest.raises(AccessDenied, match=r"inside earnorm\.system"):
            await remove_orphans(Paper)
        with system(reason="tidy up"):
            assert await remove_orphans(Paper) == 0
