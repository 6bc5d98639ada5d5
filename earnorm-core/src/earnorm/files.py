"""``earnorm.files``: the content of ``File`` fields."""

from earnorm.features.files.stored import Readable, Source, StoredFile, remove_orphans

__all__ = ["Readable", "Source", "StoredFile", "remove_orphans"]
