"""Rights on models: who may do what."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    ConfigurationError,
    Count,
    Principal,
    act_as,
    current_env,
    models,
    system,
)
from earnorm.fields import Int, String
from earnorm_security import Access


class Page(models.BaseModel):
    _name = "security.page"
    _access = [
        Access("editor", read=True, write=True, create=True),
        Access("cleaner", unlink=True),
        Access("robot", create=True),
        Access("*", read=True),
    ]
    title = String(required=True)
    views = Int(default=0)


class Secret(models.BaseModel):
    _name = "security.secret"
    _access = []
    title = String()


class Vault(models.BaseModel):
    _name = "security.vault"
    _access = [Access("editor", write=True, unlink=True), Access("reader", read=True)]
    title = String()


class Plain(models.BaseModel):
    _name = "security.plain"
    title = String()


EDITOR = Principal("ann", roles=["editor"])
CLEANER = Principal("bob", roles=["cleaner"])
ROBOT = Principal("bot", roles=["robot"])
READER = Principal("eve", roles=["reader"])


async def test_everybody_reads_and_only_an_editor_writes(opened):
    async with opened():
        with act_as(EDITOR):
            page = await Page.create({"title": "one"})
            await page.write({"title": "two"})
        assert (await Page.search()).mapped("title") == ["two"]
        assert await Page.count() == 1
        with pytest.raises(AccessDenied):
            await Page.create({"title": "three"})
        with pytest.raises(AccessDenied):
            await page.write({"title": "four"})
        with pytest.raises(AccessDenied):
            await page.unlink()
        with system(reason="look"):
            assert (await Page.search()).mapped("title") == ["two"]


async def test_the_message_names_model_operation_and_roles_but_no_value(opened):
    async with opened():
        with act_as(READER), pytest.raises(AccessDenied) as caught:
            await Page.create({"title": "hush-hush"})
        message = str(caught.value)
        assert "create" in message and "'security.page'" in message
        assert "'editor' or 'robot'" in message
        assert "hush" not in message


@pytest.mark.parametrize("operation", ["search", "count", "group", "create", "write", "unlink"])
async def test_an_empty_list_of_rights_denies_everything(opened, operation):
    async with opened():
        with system(reason="set-up"):
            secret = await Secret.create({"title": "x"})
        calls = {
            "search": lambda: Secret.search(),
            "count": lambda: Secret.count(),
            "group": lambda: Secret.search().group(n=Count()),
            "create": lambda: Secret.create({"title": "y"}),
            "write": lambda: secret.write({"title": "y"}),
            "unlink": lambda: secret.unlink(),
        }
        with act_as(EDITOR), pytest.raises(AccessDenied, match=f"^({operation}|write)"):
            await calls[operation]()
        with system(reason="look"):
            assert (await Secret.search()).mapped("title") == ["x"]


async def test_write_and_unlink_take_the_right_to_read_as_well(opened):
    async with opened():
        with system(reason="set-up"):
            vault = await Vault.create({"title": "x"})
        with act_as(EDITOR):
            for attempt in (vault.write({"title": "y"}), vault.unlink()):
                with pytest.raises(AccessDenied, match="right to read"):
                    await attempt
        with act_as(Principal("both", roles=["editor", "reader"])):
            await vault.write({"title": "y"})
            assert await vault.unlink() == 1


async def test_one_may_create_without_reading(opened):
    async with opened():
        with act_as(ROBOT):
            await Page.create({"title": "by a robot"})
        with system(reason="look"):
            assert await Page.count() == 1


async def test_rights_of_several_roles_add_up(opened):
    async with opened():
        with act_as(EDITOR):
            page = await Page.create({"title": "one"})
            with pytest.raises(AccessDenied, match="'cleaner'"):
                await page.unlink()
        with act_as(Principal("x", roles=["editor", "cleaner"])):
            assert await page.unlink() == 1


async def test_a_model_without_declarations_is_open_by_default_and_has_no_layer(opened):
    async with opened() as app:
        await Plain.create({"title": "x"})
        assert await Plain.count() == 1
        assert _layers(app, Plain) == 0
        assert _layers(app, Page) == 1


async def test_a_model_without_declarations_is_closed_where_the_settings_say_so(opened):
    async with opened(default="closed"):
        with act_as(EDITOR), pytest.raises(AccessDenied, match="no role has the right to read"):
            await Plain.count()
        with system(reason="look"):
            assert await Plain.count() == 0


def _layers(app, model):
    return sum(
        len(list(pairs))
        for name, pairs in app.loaded.collect(
            "wrap_operation", app=app, model=app.bind(model).model, operation="search"
        )
        if name == "security"
    )


async def test_the_service_says_what_one_may_do(opened):
    async with opened() as app:
        can = app.services["security"].can
        with act_as(EDITOR) as env:
            assert can(env, Page, "write") and can(env, "security.page", "search")
            assert not can(env, Page, "unlink")
        with act_as(CLEANER) as env:
            assert can(env, Page, "unlink")
        assert can(current_env(), Page, "count") and not can(current_env(), Page, "write")
        assert not can(current_env(), Secret, "read")
        assert can(current_env(), Plain, "unlink")
        with system(reason="ask") as env:
            assert can(env, Secret, "unlink")
        with pytest.raises(ConfigurationError, match="no operation 'fly'"):
            can(current_env(), Page, "fly")


async def test_concurrent_tasks_keep_their_principals(opened):
    import asyncio

    async with opened():

        async def attempt(principal):
            with act_as(principal):
                await asyncio.sleep(0)
                try:
                    await Page.create({"title": "x"})
                except AccessDenied:
                    return False
                return True

        results = await asyncio.gather(*(attempt(p) for p in [EDITOR, READER] * 20))
        assert results == [True, False] * 20
