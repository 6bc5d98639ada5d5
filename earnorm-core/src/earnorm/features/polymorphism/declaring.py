"""``_discriminator``: makes a class the root of a family, or a member of its base's family."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from earnorm.fields.text import String

if TYPE_CHECKING:
    from earnorm.model.declaring import Declaration


def join_family(declaration: Declaration) -> None:
    """Make a class a member of its base's family, or the root of a new family.

    Raises:
        TypeError: A declaration of the class doesn't fit the family.
    """
    if not declaration.is_model:
        return
    cls, name, body = declaration.model, declaration.value, declaration.body
    collection = body.get("_collection")
    root = cls._root
    if root is None:
        cls._root = root = cls
    elif "_discriminator" in body or collection not in (None, root._collection):
        raise TypeError(
            f"{cls.__name__} is kept in the collection of {root.__name__}, and told apart by its "
            f"{name!r}; it has no _discriminator and no _collection of its own"
        )
    if cls._validation is not None:
        raise TypeError(
            f"{cls.__name__}: the server cannot hold a collection of several classes to the rules of "
            f"one; _validation and _discriminator exclude each other"
        )
    cls._collection = root._collection
    cls._identity = root._name
    cls._kind = body.get("_kind") or cls._name
    declared = inspect.getattr_static(cls, name, None)
    if declared is not None and not isinstance(declared, String):
        raise TypeError(f"{cls.__name__}.{name} is the discriminator, which is a String")
    field: Any = copy.copy(declared) if declared is not None else String(required=True)
    field.default, field.choices, field.readonly, field.copy = cls._kind, (cls._kind,), True, False
    declaration.add_field(name, field)
