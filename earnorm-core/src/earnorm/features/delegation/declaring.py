"""``_inherits``: adds related fields to a class, for the record that a Many2one points at."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import nearest
from earnorm.fields.base import Computed, Field
from earnorm.fields.relational import Many2one
from earnorm.kernel import registry

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.declaring import Declaration


def delegate(declaration: Declaration) -> None:
    """Add the fields of the models that a class delegates to, except those that it declares itself.

    Raises:
        TypeError: A model is not defined yet, or its relation is missing.
    """
    if declaration.model._abstract:
        return
    if declaration.base is not None:  # an extension may have declared the link once more
        for link in declaration.value.values():
            _mark(declaration, declaration.fields[link])
        return
    for name, link in declaration.value.items():
        parent = registry.definitions().get(name)
        if parent is None:
            declaration.refuse(
                f"the model {name!r} has to be defined before"
                f"{nearest(name, registry.definitions())}"
            )
        relation = declaration.fields.get(link)
        if not isinstance(relation, Many2one) or relation.comodel_name != name:
            declaration.refuse(
                f"{link!r} is no Many2one to {name!r}; declare "
                f"{link} = Many2one({name!r}, required=True)"
            )
        _mark(declaration, relation)
        _add_fields(declaration, parent, link)


def _mark(declaration: Declaration, field: Field[Any, Any]) -> None:
    """Mark the link as one of which a copy of the record gets a copy of the other record."""
    if not isinstance(field, Many2one) or field.copies_target:
        return
    link: Many2one[Any, Any] = field
    if vars(declaration.model).get(link.name) is not link:
        # It belongs to a base class, of which other classes delegate nothing.
        link = copy.copy(link)
        declaration.add_field(link.name, link)
    link.copies_target = True


def _add_fields(declaration: Declaration, parent: type[BaseModel], link: str) -> None:
    # Private fields that a feature added to the parent are not delegated.
    hidden = {"_id", *(name for name in parent._schema.added if name.startswith("_"))}
    for field in parent._schema.fields.values():
        own = declaration.fields.get(field.name)
        path = f"{link}.{field.name}"
        if own is not None:
            if own.computed is not None and own.computed.related == path:
                own.delegated = link  # declared once more, for type checkers
        elif field.name not in hidden and field.computable:
            declaration.add_field(field.name, _related(field, path, link))


def _related(field: Field[Any, Any], path: str, link: str) -> Field[Any, Any]:
    new: Field[Any, Any] = copy.copy(field)
    new.computed = Computed("", path, "", "")
    new.stored = new.required = new.unique = new.index = new.sparse = new.copy = False
    new.default, new.of_records, new.delegated = None, True, link
    return new
