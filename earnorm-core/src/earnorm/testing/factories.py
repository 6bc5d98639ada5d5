"""Factories: valid records, of which a test gives only the values that it is about."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from weakref import WeakKeyDictionary

from earnorm.exceptions import ConfigurationError, ValidationError
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Many2one, Relation
from earnorm.kernel.environment import current_app, current_env
from earnorm.kernel.steps import Way
from earnorm.kernel.views import ModelView
from earnorm.model.base import BaseModel
from earnorm.testing.samples import Samples, has_to_be_given

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.fields.base import Field
    from earnorm.model.recordset import RecordSet

M = TypeVar("M", bound=BaseModel)


class _Counted:
    """The counters that the factories of one model share in one App: unique values do not collide."""

    def __init__(self, seed: int) -> None:
        self.number = 0
        self.samples = Samples(seed)


_counted: WeakKeyDictionary[App, dict[tuple[str, int], _Counted]] = WeakKeyDictionary()


class Factory(Generic[M]):
    """Makes valid records of a model in the current App::

        users = Factory(User, active=True, email=lambda number: f"user{number}@example.org")
        ann = await users.create(name="Ann")
        five = await users.create(5)

    Every field that must have a value and is not given one gets a valid one from its declaration. A
    required Many2one gets a new record of the other model. What is filled in on creation for who acts (the
    tenant, numbers, times) is left to that. The records of an App are numbered from 1, and the same numbers
    give the same values.

    Args:
        model: The model.
        seed: Decides where a declaration leaves a choice, as patterns do.
        **defaults: Values of fields: each a value, a function of the record's number, or the
            factory of a linked record.
    """

    def __init__(self, model: type[M], *, seed: int = 0, **defaults: Any) -> None:
        self._model = model
        self._seed = seed
        self._defaults = defaults

    def variant(self, /, **defaults: Any) -> Factory[M]:
        """Return a factory with further defaults, which go before those of this one::

            paid = orders.variant(state="paid", paid_at=lambda number: clock())

        Both number their records together.
        """
        return Factory(self._model, seed=self._seed, **{**self._defaults, **defaults})

    @overload
    async def create(self, /, **given: Any) -> M: ...
    @overload
    async def create(self, number: int, /, **given: Any) -> RecordSet[M]: ...
    async def create(self, number: int | None = None, /, **given: Any) -> M | RecordSet[M]:
        """Create one record, or a number of them with one write.

        Args:
            number: How many; None means one, which is returned itself.
            **given: Values, as the defaults of the factory.

        Raises:
            ConfigurationError: No valid value was found for a field.
            ValidationError: A rule of the model refuses the values; a note names those that were
                made.
        """
        values = [await self._values(given, ()) for _ in range(1 if number is None else number)]
        try:
            if number is None:
                return await self._model.create(values[0])
            return await self._model.create(values)
        except ValidationError as error:
            made = sorted(values[0].keys() - given.keys()) if values else []
            error.add_note(f"made by the factory of {self._model.__name__}: {', '.join(made)}")
            raise

    def build(self, /, **given: Any) -> M:
        """Make one record and do not save it.

        The constructor wants each required value, so none is left to the creation.

        Raises:
            ConfigurationError: No valid value was found for a field. That is so for a required link
                to another record, which only ``create`` makes.
        """
        counted = self._count()
        values = self._given(given, counted.number)
        for name, value in values.items():
            if isinstance(value, Factory):
                raise self._link_error(name)
        for name, field in self._missing(values):
            if isinstance(field, Relation):
                raise self._link_error(name)
            values[name] = counted.samples.value(field, counted.number)
        return self._model(**values)

    def _link_error(self, name: str) -> ConfigurationError:
        model = self._model.__name__
        return ConfigurationError(
            f"build() makes no other records: give {model}.{name}, or use "
            f"'await Factory({model}).create()'"
        ).coded("no_sample")

    async def _values(self, given: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        counted = self._count()
        number = counted.number
        values = self._given(given, number)
        for name, value in values.items():
            if isinstance(value, Factory):
                values[name] = await value.create()
        for name, field in self._missing({*values, *self._filled_in()}):
            if isinstance(field, Relation):
                values[name] = await self._linked(field, path)
            else:
                values[name] = counted.samples.value(field, number)
        return values

    def _given(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {
            name: value(number) if _is_function(value) else value
            for name, value in {**self._defaults, **given}.items()
        }

    async def _linked(self, field: Field[Any, Any], path: tuple[str, ...]) -> BaseModel:
        """Create the record that a required link leads to."""
        path = (*path, ModelView(self._model).name)
        name = _target_of(field)
        if name is None or name in path:
            why = "may lead to any model" if name is None else f"leads back to {name}"
            raise ConfigurationError(
                f"{field.model_name}.{field.name} is required and {why}: give it, as in "
                f"make({self._model.__name__}, {field.name}=...)"
            ).coded("no_sample")
        other = Factory(current_app().model(name), seed=self._seed)
        return await other._model.create(await other._values({}, path))

    def _missing(self, known: Container[str]) -> list[tuple[str, Field[Any, Any]]]:
        """Return the fields in this App that must have a value, but for those that are known."""
        fields = ModelView(current_app().extended(self._model)).fields
        return [(n, f) for n, f in fields.items() if n not in known and has_to_be_given(f)]

    def _filled_in(self) -> set[str]:
        """Return the names of the fields that steps fill in on creation, for who acts."""
        env, steps = current_env(), current_app().bind(self._model).steps()
        filling = [step.fills for step in steps if step.ways & Way.CREATE and step.fills]
        return {name for fills in filling for name in fills(env)}

    def _count(self) -> _Counted:
        app = current_app()
        key = ModelView(self._model).name, self._seed
        counted = _counted.setdefault(app, {}).setdefault(key, _Counted(self._seed))
        counted.number += 1
        return counted

    def __repr__(self) -> str:
        return f"<Factory of {ModelView(self._model).name}>"


async def make(model: type[M], **given: Any) -> M:
    """Create one valid record in the current App, as a :class:`Factory` without defaults does.

    Args:
        model: The model.
        **given: Values of fields: each a value, a function of the record's number, or the factory
            of a linked record.

    Raises:
        ConfigurationError: No valid value was found for a field.
        ValidationError: A rule of the model refuses the values.
    """
    return await Factory(model).create(**given)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type | Factory | BaseModel)


def _target_of(field: Field[Any, Any]) -> str | None:
    """Return the name of the model that a required link leads to; None if it may be any."""
    if isinstance(field, Many2one):
        return field.comodel_name
    if isinstance(field, Reference):
        return next(iter(field.names()), None)
    return None
