"""The layers and steps that roles and policies in the database need, beside those of every policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from earnorm import Env
from earnorm.plugin import (
    ALL,
    Layer,
    Middleware,
    ModelView,
    Operation,
    OperationName,
    Stage,
    Step,
    ValueBatch,
    Way,
    in_transaction_if,
)
from earnorm_security.enforcement import layer_for
from earnorm_security.field_access import check_values
from earnorm_security.policy import Policy
from earnorm_security.stored import edits
from earnorm_security.stored.current import CurrentPolicies
from earnorm_security.stored.knowing import BEHIND_TRANSACTION, OUTERMOST, Knowledge
from earnorm_security.strict import needs_transaction


def layers(
    knowledge: Knowledge,
    current: CurrentPolicies | None,
    policy: Policy,
    operation: OperationName,
) -> Iterator[tuple[int, Middleware]]:
    """Yield the layers around one kind of operation on one model.

    Args:
        knowledge: Knows what is stored.
        current: The policies with the stored ones; None without ``stored_policies``.
        policy: What the model declares.
        operation: The operation.
    """
    model = policy.model
    yield from edits.layers(ModelView(model).name, operation, knowledge.forget)
    if current is None and policy.is_void:
        return
    is_write = operation in ("create", "write", "unlink")
    yield OUTERMOST, knowledge.layer
    if is_write:  # it may have waited for others, and each try is judged anew
        yield BEHIND_TRANSACTION, knowledge.layer
    if is_write and (current is not None or policy.has_rules):
        needs = partial(_needs, knowledge, current, policy)
        yield Layer.TRANSACTION, in_transaction_if(needs)
    yield (
        Layer.SECURITY,
        layer_for(policy, operation) if current is None else current.layer(model, operation),
    )


def _needs(
    knowledge: Knowledge, current: CurrentPolicies | None, policy: Policy, op: Operation
) -> bool:
    """Return whether an operation and the judgement of its rules are one transaction."""
    if op.env.system:
        return False
    if not knowledge.is_known(op.env):  # a bulk asks before its operations begin
        return True
    return needs_transaction(policy if current is None else current.of(policy.model), op)


def hiding(
    knowledge: Knowledge, current: CurrentPolicies | None, policy: Policy
) -> Callable[[Env], bool] | None:
    """Return whether rights or rules hide records; None if everybody may read all of them."""
    if current is None and policy.hides_nothing:
        return None

    def hides(env: Env) -> bool:
        if env.system:
            return False
        if not knowledge.is_known(env):
            return True
        return (policy if current is None else current.of(policy.model)).hides(env)

    return hides


def steps(knowledge: Knowledge, policy: Policy) -> Iterator[Step]:
    """Yield the steps of a model."""
    yield from edits.steps(ModelView(policy.model).name)
    if policy.fields is not None:

        async def know_roles(batch: ValueBatch) -> None:
            await knowledge.ready(batch.env)

        # The steps of a bulk that come this early run at once; its block begins with the same.
        yield Step(Stage.ALIAS, "security: stored roles", know_roles, ways=ALL & ~Way.BULK)
        fields = policy.fields

        async def check_again(batch: ValueBatch) -> None:
            async with knowledge.knowing(batch.env):
                check_values(fields, batch)

        # It may be sent long after its values were handed in and checked.
        names = fields.restricted
        yield Step(
            Stage.PLAN, "security: field rights of a bulk", check_again, ways=Way.BULK, names=names
        )
