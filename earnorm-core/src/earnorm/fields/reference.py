"""Reference: one record of any of several models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import pydantic
from bson import ObjectId
from pydantic_core import PydanticCustomError

from earnorm.fields.base import Field, FieldOptions, N, is_refused
from earnorm.fields.comodels import MODELS
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.record_ids import given_id
from earnorm.fields.refused import REFUSED
from earnorm.fields.relational import (
    OnDelete,
    Relation,
    checked_exists,
    checked_on_delete,
    is_record,
    is_recordset,
)
from earnorm.fields.text import String

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


class _AnyId(ObjectIdField):
    """The id in a Reference, of the kind that the models declare to which it may point."""

    def __init__(self, reference: Reference[Any]) -> None:
        super().__init__()
        self._reference = reference

    def operand(self, value: Any) -> Any:
        if value is None or type(value) is ObjectId:
            return value
        names = list(self._reference.names())
        fields = [MODELS[name]._schema.fields["_id"] for name in names if name in MODELS]
        if not fields:
            return super().operand(value)
        results: list[Any] = []
        for field in fields:
            try:
                result = field.operand(value)
            except ValueError:
                continue
            if not any(result == known and type(result) is type(known) for known in results):
                results.append(result)
        if len(results) == 1:
            return results[0]
        where = self._reference.name
        raise ValueError(
            f"{where}.id: the ids of {', '.join(names)} are of several kinds: compare {where} "
            f"with (model, id)"
            if results
            else f"{where}.id is compared with an id, not {type(value).__name__}"
        )


class Reference(Relation["BaseModel", N]):
    """One record of any of several models, stored as ``{"model": name, "id": id}``.

    Its value is a ghost until it is loaded, like that of a Many2one. Loading takes one query for
    each model to which the records that were fetched together point. A condition may test the model
    alone: ``("target.model", "=", "post")``.

    Args:
        comodels: The models to which it may point, by class or ``_name``; none means any.
        required: The record cannot be stored without a value.
        default: The value of a new record, or a callable that gives it.
        on_delete: What happens to this record when the other one is deleted; see ``Many2one``.
        exists: A link that somebody sets must lead to a record that exists; see ``Many2one``.

    The value's static type is that of any record; ``isinstance`` tells the model. A value is given
    as a record, as ``(model, id)``, or as the text ``"model,id"``.

    Raises:
        TypeError: A comodel is neither a model nor a name.
    """

    comodel = ""

    def __init__(
        self,
        *comodels: type[BaseModel] | str,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: BaseModel | Callable[[], BaseModel] | None = None,
        on_delete: OnDelete | None = None,
        exists: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, (), options)
        for comodel in comodels:
            if not isinstance(comodel, str) and not hasattr(comodel, "_name"):
                raise TypeError(
                    f"Reference() takes models or their names, one after the other, not {comodel!r}"
                )
        self.comodels = comodels
        self.on_delete = checked_on_delete(self, on_delete, options)
        self.must_exist = checked_exists(self, exists, options)
        self._parts: dict[str, Field[Any, Any]] = {}

    def names(self) -> Iterable[str]:
        return [comodel if isinstance(comodel, str) else comodel._name for comodel in self.comodels]

    @property
    def parts(self) -> Mapping[str, Field[Any, Any]]:
        """The other record's model and id, by their names in a condition's path."""
        if not self._parts:
            parts: dict[str, Field[Any, Any]] = {"model": String(), "id": _AnyId(self)}
            for name, part in parts.items():
                part.__set_name__(type(self), name)
            self._parts = parts
        return self._parts

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self._checked)]

    def json_type(self) -> Any:
        return Annotated[str, pydantic.BeforeValidator(_text)]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "object", "required": ["model", "id"]}

    def _checked(self, value: Any) -> Any:
        if is_recordset(value):
            value = value.ensure_one()
        if is_record(value):
            return self._record_checked(value)
        name, pk = _split(value)
        self._model_checked(name)
        target = MODELS.get(name)
        if target is None:
            message = "no class defines the model {name} yet, so the kind of its ids is not known"
            raise PydanticCustomError("reference", message, {"name": name})
        return {"model": name, "id": given_id(target, pk)}

    def _record_checked(self, record: Any) -> Any:
        name = getattr(type(record), "_name", None)
        if name is None:
            raise PydanticCustomError("reference", "not a record")
        self._model_checked(name)
        if record.is_stored:
            record._refuse_other_app()
        else:
            record._be_linked()
        return record

    def _model_checked(self, name: str) -> None:
        allowed = self.names()
        if (allowed and name not in allowed) or not (allowed or name in MODELS):
            shown = ", ".join(allowed) or "a model that exists"
            raise PydanticCustomError("reference", "not a record of {names}", {"names": shown})

    def encode(self, value: Any) -> Any:
        return {"model": type(value)._name, "id": self._pk(value)} if is_record(value) else value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        try:
            checked = self._checked(value)
        except PydanticCustomError as error:
            raise ValueError(f"{self.name}: {error.message()}") from None
        if is_record(checked) and (pk := checked.__dict__.get("_id")) is not None:
            return {"model": type(checked)._name, "id": pk}
        return self.encode(checked)

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                value = record._absent(self)
                return value if value is None or is_record(value) else record._ghost(self, value)
            if value is None or is_record(value) or (REFUSED and is_refused(record, self.name)):
                return value
            value = state[self.name] = record._ghost(self, value)
            return value


def _split(value: Any) -> tuple[str, Any]:
    if isinstance(value, str):
        name, comma, pk = value.partition(",")
        if comma:
            return name.strip(), pk.strip()
    if isinstance(value, tuple | list) and len(value) == 2:
        first, pk = value
        return (first if isinstance(first, str) else getattr(first, "_name", "")), pk
    if isinstance(value, Mapping) and set(value) == {"model", "id"} and type(value["model"]) is str:
        return value["model"], value["id"]
    raise PydanticCustomError(
        "reference",
        "not a record, nor (model, id), nor 'model,id' ({kind})",
        {"kind": type(value).__name__},
    )


def _text(value: Any) -> Any:
    if is_record(value):
        return f"{type(value)._name},{value.id}"
    return f"{value['model']},{value['id']}" if isinstance(value, Mapping) else value
