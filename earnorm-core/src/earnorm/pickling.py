"""The names under which pickled records ask to be made again; see ``earnorm.model.pickling``."""

from earnorm.model.pickling import _new, _stored

__all__ = ["_new", "_stored"]
