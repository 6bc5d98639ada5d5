"""Many2many: ids in the document, the other side of such a field, or a link model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Unpack

from earnorm.exceptions import ConfigurationError
from earnorm.fields.base import CommonOptions
from earnorm.fields.relational import (
    C,
    Commands,
    Join,
    OnDelete,
    ToMany,
    checked_exists,
    checked_on_delete,
    is_recordset,
)

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


class Many2many(ToMany[C], Generic[C]):
    """Any number of records of another model, each of which may have any number of these.

    One of three forms:

    - ``Many2many("tag")`` stores the ids as a list in the document, in order, without duplicates.
    - ``Many2many("post", inverse="tag_ids")`` is the other side of such a field; nothing is stored.
    - ``Many2many("group", through="membership")`` is stored in the records of a link model, which
      has a Many2one to each side and may have fields of its own.

    Args:
        comodel: The other model: its class, a function that returns it (``lambda: Tag``), for a class that
            comes later, or its ``_name``.
        inverse: The name of the other model's Many2many that stores the ids.
        through: The link model: its class, or its ``_name``.
        near: The link model's Many2one to this model; not needed if there is only one.
        far: The link model's Many2one to the other model; not needed if there is only one.
        order: How the records are sorted: by fields of the other model with ``inverse``, by fields
            of the link model with ``through``. Stored ids have the order of their list.
        on_delete: For stored ids: ``"set_null"`` removes the id of a deleted record from the list,
            ``"restrict"`` refuses the deletion. Without it the id stays, and loading skips it.
        default: For stored ids: a callable that gives records or ids of a new record.
        exists: For stored ids: those that somebody sets must lead to records that exist; see
            ``Many2one``.
    """

    through: type[Any] | str | None

    def __init__(
        self,
        comodel: type[C] | Callable[[], type[C]] | str,
        *,
        inverse: str | None = None,
        through: type[BaseModel] | str | None = None,
        near: str | None = None,
        far: str | None = None,
        order: str | None = None,
        default: Callable[[], Iterable[Any]] | None = None,
        on_delete: OnDelete | None = None,
        exists: bool = False,
        **options: Unpack[CommonOptions],
    ) -> None:
        self._bind(False, default, None, (), options)
        self._point_at(comodel)
        self.inverse = inverse
        self.through = through
        self.near = near
        self.far = far
        self.order = order
        self.stored = inverse is None and through is None
        if inverse is not None and through is not None:
            raise TypeError("Many2many() takes inverse= or through=, not both")
        if through is None and (near or far):
            raise TypeError(
                "Many2many(): near= and far= name fields of the model given as through="
            )
        if self.stored and order is not None:
            raise TypeError(
                "Many2many(): stored ids have the order of their list, and take no order="
            )
        if not self.stored and (default is not None or on_delete is not None):
            raise TypeError("Many2many(): only stored ids have a default, or an on_delete")
        if not self.stored and exists:
            raise TypeError(
                "Many2many(): exists= is for stored ids; give it to the field with them"
            )
        self.on_delete = checked_on_delete(self, on_delete, options)
        self.must_exist = checked_exists(self, exists, options)

    @property
    def through_name(self) -> str:
        """The ``_name`` of the link model; empty if there is none."""
        through = self.through
        return through if isinstance(through, str) else "" if through is None else through._name

    def names(self) -> Iterable[str]:
        return (self.comodel_name, self.through_name) if self.through else (self.comodel_name,)

    @property
    def join(self) -> Join:
        """The fields that join the two models.

        Raises:
            ConfigurationError: A link model joins them; see ``model.relations.ghosts.link_of``.
        """
        if self.through is not None:
            raise ConfigurationError(f"{self.name} joins through the model {self.through_name!r}")
        return Join(self.name, "_id") if self.stored else Join("_id", self.inverse or "")

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "array", "items": super().bson_schema()}

    def encode(self, value: Any) -> Any:
        """Convert a value to the list of ids; such a list stays as it is."""
        if is_recordset(value):
            return list(dict.fromkeys(self._pk(item) for item in value._members()))
        if isinstance(value, list | tuple | set | frozenset) and not isinstance(value, Commands):
            try:
                return list(dict.fromkeys(self._pk(item) for item in value))
            except TypeError:  # commands with values, or another program's values
                return value
        return value
