"""``earnorm.files``: the content of ``File`` fields."""

from earnorm.features.files.stored import FileReader, Readable, Source, StoredFile, remove_orphans

__all__ = ["FileReader", "Readable", "Source", "StoredFile", "remove_orphans"]
