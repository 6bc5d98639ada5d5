"""The policies in effect: those in Python together with the stored ones, for each operation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from earnorm import App, BaseModel
from earnorm.plugin import Call, ModelView, Operation, OperationName
from earnorm_security.enforcement import layer_for
from earnorm_security.policy import Policy
from earnorm_security.stored.knowing import Knowledge
from earnorm_security.stored.policies import PolicyRows, StoredPart, stored_part

Maker: TypeAlias = Callable[[type[BaseModel], Callable[..., StoredPart]], Policy]
"""Makes the policy of a model from its declarations and what is stored."""


class CurrentPolicies:
    """Makes the policy of each model for what is stored now, and keeps it until that changes.

    Args:
        app: The App.
        knowledge: Knows what is stored.
        make: Makes a policy.
    """

    def __init__(self, app: App, knowledge: Knowledge, make: Maker) -> None:
        self._app, self._knowledge, self._make = app, knowledge, make
        self._made: WeakKeyDictionary[PolicyRows, dict[type[BaseModel], Policy]] = (
            WeakKeyDictionary()
        )

    def of(self, model: type[BaseModel]) -> Policy:
        """Return the policy by which the running operation is judged.

        Raises:
            ConfigurationError: Nothing is known that counts.
        """
        rows = self._knowledge.policies()
        made = self._made.get(rows)
        if made is None:
            made = self._made[rows] = {}
        policy = made.get(model)
        if policy is None:
            stored = partial(stored_part, self._app, model, rows.of(ModelView(model).name))
            policy = made[model] = self._make(model, stored)
        return policy

    def forget(self, model: type[BaseModel]) -> None:
        """Drop what is kept of a model and of the classes made of it."""
        for made in self._made.values():
            for cls in [cls for cls in made if issubclass(cls, model)]:
                del made[cls]

    def forget_all(self) -> None:
        """Drop what is kept of all models, to make it again."""
        self._made.clear()

    def layer(self, model: type[BaseModel], operation: OperationName) -> _Judged:
        """Return the layer that enforces the policy in effect."""
        return _Judged(self, model, operation)


class _Judged:
    """The layer of one kind of operation on one model, by the policy in effect."""

    def __init__(
        self, policies: CurrentPolicies, model: type[BaseModel], operation: OperationName
    ) -> None:
        self._policies, self._model, self._operation = policies, model, operation

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on as the policy in effect allows it."""
        if op.env.system:
            return await call_next(op)
        return await layer_for(self._policies.of(self._model), self._operation)(op, call_next)
