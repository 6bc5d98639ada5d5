"""Content of File fields follows the rules of its record."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, NotFound, Principal, act_as, models, system
from earnorm.fields import File, String
from earnorm.files import remove_orphans
from earnorm_security import Access, FieldRights, Rule


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


class Pass(models.BaseModel):
    _name = "security.pass"
    _field_rights = [
        FieldRights("photo", write=["editor"]),
        FieldRights("scan", read=["editor"]),
    ]
    photo = File()
    scan = File()


async def test_a_file_needs_the_rights_on_its_field(opened):
    async with opened() as app:
        with system(reason="fill"):
            held = await Pass.create({})
            await held.photo.write(b"face")
            await held.scan.write(b"secret")
        with act_as(EVE):
            assert await held.photo.read() == b"face"
            for refused in (held.photo.write(b"x"), held.photo.delete(), held.scan.read()):
                with pytest.raises(AccessDenied, match="needs the role 'editor'"):
                    await refused
        files = app.dangerous_raw("a look")["security_pass.photo.files"]
        assert await files.count_documents({}) == 1
        with act_as(Principal("ed", roles=["editor"])):
            await held.photo.write(b"new")
            assert await held.scan.read() == b"secret"


async def test_nothing_is_uploaded_to_a_record_that_may_not_be_written(opened):
    async with opened() as app:
        with act_as(ANN):
            shared = await Paper.create({"owner": "everybody"})
            await shared.content.write(b"shared")
            mine = await Paper.create({"owner": "ann"})
        read = []

        def pieces():
            read.append("begun")
            yield b"forged"

        with act_as(EVE):
            for paper, error in ((shared, AccessDenied), (mine, NotFound)):
                seen = paper if paper is mine else await Paper.get(paper.id)
                with pytest.raises((error, AccessDenied)):
                    await seen.content.write(pieces())
        assert read == []
        files = app.dangerous_raw("a look")["security_paper.content.files"]
        assert await files.count_documents({}) == 1


async def test_only_the_system_changes_the_indexes_of_a_model_with_rights(opened):
    async with opened() as app:
        with act_as(ANN):
            assert await app.indexes.diff([Paper])
            assert isinstance(await app.indexes.sync([Paper], dry_run=True), list)
            for refused in (app.indexes.sync([Paper]), app.indexes.drop_unused([Paper])):
                with pytest.raises(AccessDenied, match=r"inside earnorm\.system"):
                    await refused
            shape = app.indexes.shape(Paper, [("owner", "=", "ann")])
            with pytest.raises(AccessDenied, match=r"inside earnorm\.system"):
                await app.indexes.advise([shape], verify=True)
        with system(reason="deploy"):
            await app.indexes.sync([Paper])
