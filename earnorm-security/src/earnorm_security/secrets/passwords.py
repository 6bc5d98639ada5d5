"""Password: a field that keeps a hash, and can only tell whether a text is the password."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NoReturn, Unpack

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.fields import ConvertingField, FieldOptions, N
from earnorm_security.secrets.hashing import (
    LONGEST,
    Argon2,
    hashed,
    is_hash,
    is_same,
    normal,
    verified,
)

log = logging.getLogger("earnorm.security")

Renew = Callable[[str, str], Awaitable[bool]]
"""Stores another hash in the place of one; returns whether it was stored."""


class StoredHash(str):
    """A hash as it was read, with the function that stores another one in its place."""

    __slots__ = ("renew",)
    renew: Renew | None

    def __repr__(self) -> str:
        return "<hash>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a password is not pickled, nor is its hash")


class PasswordHash:
    """The value of a :class:`Password`: it can only tell whether a text is the password.

    ``PasswordHash.of_hash(text)`` takes over a hash of argon2id that another program has made.
    """

    __slots__ = ("_hash", "_parameters", "_plain", "_renew")

    def __init__(self, parameters: Argon2, *, plain: str | None = None, hash: str = "") -> None:
        self._parameters = parameters
        self._plain = plain
        self._hash = hash
        self._renew: Renew | None = getattr(hash, "renew", None)

    @classmethod
    def of_hash(cls, text: str) -> PasswordHash:
        """Make the value of a hash that was made elsewhere, to store it as it is.

        Raises:
            ValueError: It is no hash of argon2id.
        """
        if not isinstance(text, str) or len(text) > LONGEST or not is_hash(text):
            raise ValueError("it is no hash of argon2id ($argon2id$v=19$m=…)")
        return cls(Argon2(), hash=text)

    async def verify(self, text: str) -> bool:
        """Return whether a text is the password.

        It takes as long for a wrong text as for the right one, and other tasks run meanwhile. If the
        hash was made with other parameters than the field now has, another one takes its place.
        """
        if not isinstance(text, str) or len(text) > LONGEST:
            return False
        text = normal(text)
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
        if self._plain is not None:
            return is_same(self._plain, text)
        is_right, is_outdated = await verified(self._parameters, str.__str__(self._hash), text)
        if is_right and is_outdated and self._renew is not None:
            await self._renew_hash(text)
        return is_right

    async def _renew_hash(self, text: str) -> None:
        renew, old = self._renew, str.__str__(self._hash)
        assert renew is not None
        try:
            new = await hashed(self._parameters, text)
            if await renew(old, new):
                self._hash = new
        except Exception as error:  # the password was right, whatever becomes of its hash
            log.warning("a password could not be hashed anew: %s", type(error).__name__)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, PasswordHash) or self._plain != other._plain:
            return False
        return self._plain is not None or self._hash == other._hash

    __hash__ = object.__hash__

    def __copy__(self) -> PasswordHash:
        return self

    def __deepcopy__(self, memo: object) -> PasswordHash:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a password is not pickled, nor is its hash")

    def __repr__(self) -> str:
        return "<PasswordHash>"

    # -- what the layer uses ------------------------------------------------------------------

    @property
    def stored(self) -> str | None:
        """The hash; None before it is made."""
        return None if self._plain is not None else str.__str__(self._hash)

    async def make(self) -> str:
        """Make the hash, unless it is made, and forget the password."""
        plain = self._plain
        if plain is not None:
            self._hash = await hashed(self._parameters, plain)
            self._plain = None
        return str.__str__(self._hash)


_DEFAULTS: Final = Argon2()


class Password(ConvertingField[PasswordHash, N]):
    """A password, of which only a hash of argon2id is stored.

    A value is given as text, in every way in which values are given. Reading the field gives a
    :class:`PasswordHash`, which can only ``await verify(text)``.

    Args:
        min_length: The fewest characters.
        max_length: The most characters; at most 1,024.
        parameters: The cost of a hash. ``verify`` replaces hashes that were made with others.
    """

    secret = True
    python_type: ClassVar[Any] = PasswordHash

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        validators: Iterable[Callable[[str], str]] = (),
        min_length: int = 8,
        max_length: int = LONGEST,
        parameters: Argon2 = _DEFAULTS,
        **options: Unpack[FieldOptions],
    ) -> None:
        if not 1 <= min_length <= max_length <= LONGEST:
            raise TypeError(f"Password(min_length=, max_length=): 1 to {LONGEST} characters")
        for name in ("unique", "index", "sparse"):
            if options.get(name):
                raise TypeError(f"Password({name}=True): two hashes of one password differ")
        # mypy takes the N of a bare super() for another one; docs/fields.md says so.
        super(Password, self).__init__(required=required, **options)  # noqa: UP008
        self.copy = self.copy and "copy" in options
        if self.computed is not None:
            raise TypeError("Password() cannot be computed")
        self.min_length, self.max_length = min_length, max_length
        self.parameters = parameters
        self._text_validators = tuple(validators)

    if TYPE_CHECKING:

        def __set__(self, record: object, value: str | PasswordHash | None) -> None: ...

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self._taken)]

    def json_type(self) -> Any:
        schema = {"type": "string", "format": "password", "minLength": self.min_length}
        text = pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        return Annotated[str, text, pydantic.WithJsonSchema(schema)]

    def _taken(self, value: Any) -> PasswordHash:
        if isinstance(value, PasswordHash):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "a password is a text")
        text = normal(value)
        if not self.min_length <= len(text) <= self.max_length:
            raise PydanticCustomError(
                "string_length",
                "a password has {least} to {most} characters",
                {"least": self.min_length, "most": self.max_length},
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("string_unicode", "the text has a lone surrogate") from None
        for validator in self._text_validators:
            text = normal(validator(text))
        return PasswordHash(self.parameters, plain=text)

    def sample(self, number: int) -> str:
        """Return a password for a record that a factory makes."""
        return f"password {number}".ljust(self.min_length, "x")[: self.max_length]

    def encode(self, value: Any) -> Any:
        if isinstance(value, PasswordHash):
            stored = value.stored
            return value if stored is None else stored  # the layer of security makes the hash
        return value

    def decode(self, value: Any) -> Any:
        return PasswordHash(self.parameters, hash=value) if isinstance(value, str) else value

    def is_decoded(self, value: Any) -> bool:
        return not isinstance(value, str)

    def bson_schema(self) -> dict[str, Any]:
        return {"bsonType": "string"}
