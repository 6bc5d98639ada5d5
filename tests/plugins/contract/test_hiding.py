"""What a plugin says of a model whose records its own layer hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from earnorm import (
    App,
    Boolean,
    DomainError,
    Env,
    Many2one,
    PluginError,
    ValidationError,
    models,
    system,
)
from earnorm.domain import condition
from earnorm.plugin import Call, Layer, Middleware, ModelView, Operation, hookimpl


class Draft(models.BaseModel):
    _name = "contract.draft"
    is_secret = Boolean(default=False)


class Comment(models.BaseModel):
    _name = "contract.comment"
    draft_id = Many2one(Draft)


class Secrets:
    """Hides secret drafts from everybody but the system."""

    api = 1
    name = "secrets"

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Iterable[tuple[int, Middleware]]:
        if model is not Draft or operation != "search":
            return ()

        async def hide(op: Operation, call_next: Call) -> Any:
            if not op.env.system:
                op = op.replace(domain=op.domain & condition("is_secret", "!=", True))
            return await call_next(op)

        return [(Layer.SECURITY, hide)]

    @hookimpl
    def hides_records(self, model: ModelView) -> Callable[[Env], bool] | None:
        return (lambda env: not env.system) if model.cls is Draft else None


async def test_links_are_checked_for_a_plugin_that_hides_records() -> None:
    async with App("mongomock://", database="hiding", plugins=[Secrets()]):
        secret, plain = await Draft.create([{"is_secret": True}, {}])
        await Comment.create({"draft_id": plain})
        with pytest.raises(ValidationError, match="draft_id: no such record"):
            await Comment.create({"draft_id": secret})
        with system(reason="test"):
            await Comment.create({"draft_id": secret})


async def test_anything_but_a_function_is_refused() -> None:
    class Wrong:
        api = 1
        name = "wrong"

        @hookimpl
        def hides_records(self, model: ModelView) -> Any:
            return True

    async with App("mongomock://", database="hiding", plugins=[Wrong()]):
        draft = await Draft.create({})
        with pytest.raises(
            PluginError,
            match=r"plugin 'wrong'.*hides_records.*a plain function of \(env\), or None",
        ):
            await Comment.create({"draft_id": draft})


async def test_no_hint_names_what_a_plugin_keeps() -> None:
    class Keeping:
        api = 1
        name = "keeping"

        @hookimpl
        def unnamed_fields(self, model: ModelView) -> Callable[[Env], frozenset[str]] | None:
            return (lambda env: frozenset({"is_secret"})) if model.cls is Draft else None

    async with App("mongomock://", database="hiding", plugins=[Keeping()]):
        with pytest.raises(DomainError, match=r"^(?!.*is_secret)"):
            await Draft.search([("is_secrte", "=", True)])
        with pytest.raises(DomainError, match=r"^(?!.*is_secret)"):
            await Comment.search([("draft_id.is_secrte", "=", True)])
        with system(reason="test"), pytest.raises(DomainError, match="did you mean 'is_secret'"):
            await Draft.search([("is_secrte", "=", True)])
