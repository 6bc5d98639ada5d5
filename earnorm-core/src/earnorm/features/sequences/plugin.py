"""Sequence fields: numbers new records, with one round trip for each counter of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ConfigurationError, nearest
from earnorm.features.sequences.counters import counter_model, of_field
from earnorm.fields.base import MISSING
from earnorm.fields.scopes import scope_problem, scope_text
from earnorm.fields.sequences import Sequence
from earnorm.kernel.document_steps import DocumentBatch, DocumentRow
from earnorm.kernel.environment import use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.notes import Note
from earnorm.kernel.scoping import scopes_of
from earnorm.kernel.steps import Stage, Step
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import Call, Operation, OperationName
    from earnorm.model.base import BaseModel


class SequencesPlugin:
    """Sets the Sequence fields of new records."""

    api = API
    name = "sequences"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first Sequence field."""
        return next((f"the field {f.name!r}" for f in _numbered(model)), None)

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Refuse a scope that is no field, or one whose value is not known in time.

        Raises:
            ConfigurationError: A Sequence of the model has such a scope.
        """
        view = ModelView(model)
        for field in _numbered(view):
            problem = scope_problem(view.fields.get(field.scope)) if field.scope else ""
            if problem:
                hint = "" if field.scope in view.fields else nearest(field.scope, view.fields)
                raise ConfigurationError(
                    f"{view.name}.{field.name}: Sequence(scope={field.scope!r}): the field {problem}{hint}"
                )

    @hookimpl
    def models_changed(self, app: App, models: Iterable[type[BaseModel]]) -> None:
        """Make the counters' model with the first gap-free field.

        So its collection is prepared before a transaction begins: one that appears meanwhile, for the
        first number of any sequence, would end the transaction.
        """
        known = models if app.is_started else app.usable_models()
        if any(map(_counts_in_transactions, known)):
            counter_model()

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer that keeps numbers of a refused create from being lost."""
        if operation == "create" and _counts_in_transactions(model):
            return [(Layer.STEPS - 1, _roll_back_drawn)]
        return ()

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the step, for models with Sequence fields only: the others pay nothing for it."""
        fields = _numbered(model)
        if fields:
            counted = [(field, _counted_in(model, field)) for field in fields]
            return [Step(Stage.NUMBER, "sequences", _SetNumbers(model, counted), on="create")]
        return ()


_DRAWN: Final[Note[list[str]]] = Note("gap-free numbers")
"""The fields of a create for which numbers were drawn that no other record may be without."""


async def _roll_back_drawn(op: Operation, call_next: Call) -> Any:
    """Keep a transaction from being committed whose records with numbers were refused.

    The program may catch the error and go on, and its commit would leave a gap.
    """
    drawn: list[str] = []
    try:
        return await call_next(op.with_note(_DRAWN, drawn))
    except BaseException:
        if drawn and op.env.transaction is not None:
            op.env.transaction.doom("records with numbers of a gap-free sequence were refused")
        raise


def _numbered(model: ModelView) -> list[Sequence]:
    return [f for f in model.fields.values() if f.stored and isinstance(f, Sequence)]


def _counts_in_transactions(model: type[BaseModel]) -> bool:
    return any(
        field.stored and isinstance(field, Sequence) and field.gap_free
        for field in model._schema.fields.values()
    )


def _counted_in(model: ModelView, field: Sequence) -> str:
    """Return the model whose counter numbers a field.

    A unique field that several classes of a collection inherit is counted in all of them together.
    """
    root = model.attribute("_root")
    if root is None or not field.unique:
        return model.name
    classes: list[Any] = list(reversed(model.cls.__mro__))
    for cls in classes:
        if getattr(cls, "_root", None) is root:
            inherited = cls._schema.fields.get(field.name)
            if isinstance(inherited, Sequence) and inherited.format == field.format:
                name: str = cls._name
                return name
    return model.name


class _SetNumbers:
    def __init__(self, model: ModelView, fields: list[tuple[Sequence, str]]) -> None:
        self._fields = [
            (field, counted, scopes_of(model, [field.db_name])) for field, counted in fields
        ]

    async def __call__(self, batch: DocumentBatch) -> None:
        now = batch.now
        for field, model, scopes in self._fields:
            missing = [row for row in batch.rows if not row.has(field.name)]
            counted: dict[str, list[DocumentRow]] = {}
            for row in missing:
                texts = "".join(scope_text(_known(row.get(name))) for name in scopes)
                counted.setdefault(texts, []).append(row)
            # In one order, so that two transactions which need the same counters meet at the first.
            for texts in sorted(counted):
                counter = of_field(field.counter(model, now, texts), gap_free=field.gap_free)
                rows = counted[texts]
                with use_env(batch.env):
                    numbers = await counter.take(len(rows))
                drawn = batch.op.note(_DRAWN)
                if field.gap_free and drawn is not None:
                    drawn.append(field.name)
                for row, number in zip(rows, numbers, strict=True):
                    row.put(field.name, field.text(number, now))


def _known(value: Any) -> Any:
    return None if value is MISSING else value
