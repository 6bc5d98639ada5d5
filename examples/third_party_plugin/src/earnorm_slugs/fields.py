"""The field type: a slug that is made from another field."""

from __future__ import annotations

from typing import ClassVar, Unpack

from earnorm.fields import N, Slug, ValueOptions
from pydantic_core import PydanticCustomError


class AutoSlug(Slug[N]):
    """A slug that a new record gets from another of its fields, unless one is given.

    Args:
        source: The name of the field that it is made from.
        max_length: The most characters; None means the plugin's setting.
    """

    generated: bool = True
    source: str

    def __init__(
        self,
        *,
        source: str = "",
        max_length: int | None = None,
        unicode: bool = False,
        **options: Unpack[ValueOptions[str, N]],
    ) -> None:
        options.setdefault("unique", True)
        # The class is named because mypy takes the N of super() for another one.
        super(AutoSlug, self).__init__(max_length=max_length, unicode=unicode, **options)  # noqa: UP008
        self.source = source

    fallback: ClassVar[str] = "record"
    """The slug of a text without any letter or digit."""

    def slug_of(self, text: str) -> str:
        """Return the slug of a text; a text without a letter or digit has ``fallback``."""
        try:
            return self.normal(text)
        except PydanticCustomError:
            return self.fallback
