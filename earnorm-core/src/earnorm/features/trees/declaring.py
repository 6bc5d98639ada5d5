"""The field with the path of a node's ancestors, and the check that a model is a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ConfigurationError, nearest
from earnorm.fields.relational import Many2one
from earnorm.fields.text import String
from earnorm.model.relations.ghosts import points_at

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.declaring import Declaration

PATH: Final = "_parent_path"


def add_path(declaration: Declaration) -> None:
    """Add the field ``_parent_path`` for ``_parent_store = True``."""
    if PATH not in declaration.fields:
        path: String[Any] = String(index=True, readonly=True)
        path.internal = True
        declaration.add_field(PATH, path)


def check_tree(model: type[BaseModel]) -> None:
    """Refuse a model with ``_parent_store`` that is no tree.

    Raises:
        ConfigurationError: ``_parent_name`` names no Many2one to the model itself, or one without
            ``on_delete``.
    """
    name, fields = model._parent_name, model._schema.fields
    field = fields.get(name)
    if not isinstance(field, Many2one) or not points_at(field, model):
        raise ConfigurationError(
            f"{model._name}: _parent_store needs a Many2one to the model itself, and {name!r} "
            f"(_parent_name) is none{nearest(name, fields)}"
        )
    if field.on_delete is None:
        raise ConfigurationError(
            f"{model._name}.{name}: _parent_store needs on_delete=, so that no path leads through a "
            f"record that is gone"
        )
