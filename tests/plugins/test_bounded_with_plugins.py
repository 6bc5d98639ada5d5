"""With all plugins, too, nothing is kept for ever of what clients ask for, of what models are forgotten, and of Apps that stopped."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

import earnorm
from earnorm import App, Env, Int, Json, String, models
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_pool import PoolPlugin
from earnorm_security import EVERYBODY, Access, Rule, SecurityPlugin
from tests.core.test_bounded import WAYS, Ask, stays_within_bounds


class Note(models.BaseModel):
    _name, _collection = "bounded.note", "bounded_note"
    _access = [Access(EVERYBODY, read=True, write=True, create=True, unlink=True)]
    _rules = [Rule("own", lambda env: [(f"data.{user(env)}", "=", None)])]
    _cache = True
    _id = String(required=True)
    text = String()
    data = Json()


def user(env: Env) -> str:
    return str(env.principal.id) if env.principal is not None else "nobody"


async def principal(app: App, key: str) -> None:
    who = earnorm.Principal(f"user{key}", roles={f"role{key}"})
    with earnorm.act_as(who, ticket=key):
        await Note.search([("text", "=", key)]).limit(1)
        await Note.search([("id", "=", f"id{key}")])


async def change(app: App, key: str) -> None:
    note = await Note.create({"_id": f"id{key}", "text": key})
    await note.write({"data.a": key})
    await note.unlink()
    await app.dangerous_raw("empty the trail, which lies in memory, too")["audit_entries"].drop()


async def model(app: App, key: str) -> None:
    """Make a model as for a form of a tenant, use it, and forget it."""

    class Form(models.BaseModel):
        _name, _collection = f"bounded.form{key}", f"bounded_form{key}"
        text = String(unique=True)
        total = Int(compute="_total", store=True)

        @earnorm.depends("text")
        def _total(self) -> int:
            return len(self.text or "")

    form = await Form.create({"text": "a"})
    await form.write({"text": "b"})
    assert await Form.get(form.id)
    await form.unlink()
    Form.pydantic_model()
    earnorm.forget(Form)


PLUGINS = [AuditPlugin, CachePlugin, PoolPlugin, SecurityPlugin]
OTHERS: dict[str, Ask] = {"principal": principal, "change": change}


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with earnorm.App("mongomock://", database="bounded", plugins=PLUGINS) as app:
        yield app


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("earnorm", "earnorm.audit", "earnorm.cache", "earnorm.slow_queries"):
        monkeypatch.setattr(
            logging.getLogger(name), "disabled", True
        )  # pytest keeps what is logged
    yield


@pytest.mark.parametrize("name", ["search", "in_other_records", "json_write", "unknown", *OTHERS])
async def test_what_clients_ask_for_stays_within_bounds(app: App, name: str) -> None:
    await stays_within_bounds(app, {**WAYS, **OTHERS}[name])


async def test_forgotten_models_leave_nothing(app: App) -> None:
    for n in range(3):
        await model(app, f"_forgotten{n}")
    gc.collect()
    kept = {place for place in holding("form_forgotten") if place not in OF_THE_DATABASE}
    assert kept == {"MemoryBackend._collections"}, "which are Bounded"


# It is in memory, and the collections are there.
OF_THE_DATABASE = {"MemoryBackend.index_options", "MemoryBackend._stores"}


def holding(text: str) -> Iterator[str]:
    """Yield the attributes of EarnORM's objects that are collections with such a key or item."""
    for holder in gc.get_objects():
        module: object = getattr(type(holder), "__module__", None)
        if not (isinstance(module, str) and module.startswith("earnorm")):
            continue
        slots = [name for cls in type(holder).__mro__ for name in getattr(cls, "__slots__", ())]
        for name in (*slots, *getattr(holder, "__dict__", ())):
            value = getattr(holder, name, None)
            if isinstance(value, dict | list | set) and text in str(list(value)):
                yield f"{type(holder).__name__}.{name}"
