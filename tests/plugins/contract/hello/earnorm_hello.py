"""A plugin of somebody else's, in one file: it brings one of everything that a plugin can bring."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from earnorm import Field, Operator, String, models
from earnorm.plugin import Layer, Operation, hookimpl

if TYPE_CHECKING:
    from earnorm import App


class HelloSettings(pydantic.BaseModel):
    """The keyword ``hello=`` of ``earnorm.init``."""

    model_config = pydantic.ConfigDict(extra="forbid")

    greeting: str = "Hello"
    times: int = 1


class HexColor(Field[str, Any]):
    """A field type: ``#rrggbb``, kept in small letters."""

    python_type = str
    operand_types = (str,)

    def annotation(self) -> Any:
        pattern = pydantic.StringConstraints(pattern=r"\A#[0-9a-fA-F]{6}\z", to_lower=True)
        return Annotated[str, pattern]

    def operand(self, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else super().operand(value)


class PersonInColor(models.BaseModel):
    """Two fields and a method on a model that this plugin doesn't own."""

    _inherit = "contract.person"
    color = HexColor(default="#000000")
    nickname = String()

    def greeting(self) -> str:
        return f"{self.nickname or 'you'} in {self.color}"


def _text(field: Any, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"'starts' takes a text, not {type(value).__name__}")
    return value


STARTS = Operator(
    name="starts",
    prepare=_text,
    to_mongo=lambda path, text: {path: {"$regex": "^" + re.escape(text)}},
    matches=lambda text: (
        lambda values: any(isinstance(value, str) and value.startswith(text) for value in values)
    ),
)


class HelloPlugin:
    """The entry point."""

    api = 1
    LAYER = Layer.AUDIT + 50  # a layer of its own, between AUDIT and OBSERVE

    def __init__(self, settings: HelloSettings) -> None:
        self.settings_given = settings
        self.seen: list[str] = []
        self.greeted: list[str] = []

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        return HelloSettings

    @hookimpl
    def register_fields(self) -> Mapping[str, type[Field[Any, Any]]]:
        return {"HexColor": HexColor}

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        return [PersonInColor]

    @hookimpl
    def register_operators(self) -> Iterable[Operator]:
        return [STARTS]

    @hookimpl
    def register_services(self) -> Mapping[str, object]:
        return {"hello": self}

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
        return [(self.LAYER, self._watch)]

    async def _watch(self, op: Operation, call_next: Callable[[Operation], Any]) -> Any:
        seen = f"{op.name} {op.model._name}"
        if op.name in ("create", "write", "unlink"):
            op.after_durable(lambda: self.seen.append(seen))
        return await call_next(op)

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        await asyncio.sleep(0)
        documents = op.values if isinstance(op.values, list) else []
        for _ in range(self.settings_given.times):
            # It is called for every model, and not every record has a name.
            named = [d["name"] for d in documents if "name" in d]
            lines = [f"{self.settings_given.greeting}, {name}!" for name in named]
            op.after_durable(partial(self.greeted.extend, lines))

    @staticmethod
    @hookimpl
    def register_commands() -> Mapping[str, Callable[..., object]]:
        return {"greet": greet, "shout": shout}


async def greet(name: str, app: App, loud: bool = False) -> None:
    """Store a person, and greet everybody who is stored."""
    hello: Any = app.services["hello"]
    person = app.model("contract.person")
    await person.create({"name": name})
    for line in hello.greeted:
        print(line.upper() if loud else line)


def shout(word: str, times: int = 1) -> None:
    """Print a word in capitals; needs no database."""
    print(" ".join([word.upper()] * times))
