"""Encrypted: a field around another one, whose values are stored encrypted.

A value has one of these stored forms in memory: ``Unsealed`` before the layer encrypts it, since only
the layer knows the record; ``Sealed`` as it was read, which decrypts when the field is first read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NoReturn, Self, TypeVar, Unpack

from bson import Binary

from earnorm.domain import OneOf
from earnorm.fields import Field, FieldOptions, MutableField, N
from earnorm.plugin import find_env, from_bson, to_bson
from earnorm_security.secrets.cipher import (
    SUBTYPE,
    Cipher,
    Place,
    failed,
    is_ciphertext,
    unavailable,
)
from earnorm_security.secrets.errors import KeysUnavailable
from earnorm_security.secrets.keys import KeyProvider, KeyRing, fetched

V = TypeVar("V")

_EQUALITY: Final = frozenset({"=", "!=", "=?", "in", "not in"})
_KEY: Final = "v"


class Unsealed:
    """The stored form of a value that is not encrypted yet. No database takes it."""

    __slots__ = ("_form",)

    def __init__(self, form: Any) -> None:
        self._form = form

    def opened(self) -> Any:
        """Return the value in the stored form of the field inside."""
        return self._form

    def data(self) -> bytes:
        """Return the bytes that are encrypted."""
        return to_bson({_KEY: self._form})

    def bson_form(self) -> Binary:
        """Return what stands for it where stored values are compared in memory."""
        return Binary(self.data(), SUBTYPE)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Unsealed | Sealed):
            return NotImplemented
        return self is other or self.data() == other.data()

    __hash__ = None  # type: ignore[assignment] # two equal ones may hold what has no hash

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encrypted value is not pickled")

    def __repr__(self) -> str:
        return "<encrypted>"


class Sealed(Binary):
    """A ciphertext as it was read, with what it takes to decrypt it."""

    cipher: Cipher
    place: Place
    pk: bytes

    @classmethod
    def read(cls, stored: bytes, cipher: Cipher, place: Place, pk: bytes) -> Sealed:
        """Return a ciphertext with its place and the id of its record."""
        sealed = cls(stored, SUBTYPE)
        sealed.cipher, sealed.place, sealed.pk = cipher, place, pk
        return sealed

    def data(self) -> bytes:
        """Return what was encrypted.

        Raises:
            DecryptionFailed: It does not belong here.
            KeysUnavailable: There are no keys.
        """
        return self.cipher.decrypt(self, self.place, self.pk)

    def opened(self) -> Any:
        """Return the value in the stored form of the field inside."""
        return from_bson(self.data())[_KEY]

    def is_of(self, cipher: Cipher, place: Place, pk: bytes) -> bool:
        """Return whether it may be stored at a place as it is."""
        return (self.cipher, self.place, self.pk) == (cipher, place, pk)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Unsealed):
            return other == self
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = Binary.__hash__

    def __copy__(self) -> Sealed:
        return self

    def __deepcopy__(self, memo: object) -> Sealed:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encrypted value is not pickled")

    def __repr__(self) -> str:
        return "<encrypted>"


class Encryption:
    """The service ``app.services["encryption"]``: the keys of an App.

    Args:
        provider: Gives the keys; None for an App without.
    """

    def __init__(self, provider: KeyProvider | None) -> None:
        self._provider = provider
        self._cipher = Cipher(KeyRing(()))

    @property
    def cipher(self) -> Cipher:
        """The cipher with the keys that the App has; there may be none."""
        return self._cipher

    @property
    def has_provider(self) -> bool:
        """True if the App says where its keys are."""
        return self._provider is not None

    def is_ready(self) -> bool:
        """Return whether the keys are there."""
        return bool(self._cipher.ring.keys)

    async def ready(self) -> Cipher:
        """Fetch the keys, unless they are there.

        Raises:
            KeysUnavailable: They cannot be had.
        """
        return self._cipher if self.is_ready() else await self.reload()

    async def reload(self) -> Cipher:
        """Fetch the keys again, e.g. after a new one was added.

        Raises:
            KeysUnavailable: They cannot be had; those of before stay.
        """
        if self._provider is None:
            raise KeysUnavailable(
                'encryption: this App has no keys: give App(security={"keys": "env:NAME"})'
            )
        ring = KeyRing(await fetched(self._provider))
        # Ciphertexts that were read before keep this object, so it stays the same one.
        self._cipher.ring = ring
        self._cipher.forget()
        return self._cipher

    def key_names(self) -> tuple[str, ...]:
        """Return the names of the keys, the one that encrypts first."""
        return tuple(key.name for key in self._cipher.ring.keys)

    def __repr__(self) -> str:
        return f"<Encryption {self._cipher.ring!r}>"


class Encrypted(MutableField[V, N]):
    """A field whose values are stored encrypted: ``Encrypted(String())``.

    The value is that of the field inside. It is bound to its record: a ciphertext that is copied to
    another record, field or model is not decrypted.

    Args:
        inner: The field that checks and converts the values. Its own options stand here.
        deterministic: Equal values have equal ciphertexts, so that ``=`` and ``in`` find them and
            unique indexes hold for the values under one key. Whoever reads the database sees which
            records have equal values.
    """

    secret = True
    is_placed: ClassVar[bool] = True

    def __init__(
        self,
        inner: Field[V, Any],
        *,
        deterministic: bool = False,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: V | Callable[[], V] | None = None,
        validators: Iterable[Callable[[V], V]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        _check_inner(inner)
        for name in ("unique", "index", "sparse"):
            if options.get(name) and not deterministic:
                raise TypeError(
                    f"Encrypted({name}=True): no two ciphertexts are alike; deterministic=True makes "
                    f"them alike for equal values"
                )
        # mypy takes the N of a bare super() for another one; docs/fields.md says so.
        super(Encrypted, self).__init__(  # noqa: UP008
            required=required, default=default, validators=validators, **options
        )
        if self.computed is not None:
            raise TypeError("Encrypted() cannot be computed")
        self._inner: Any = inner
        self.deterministic = deterministic
        self.operators = _EQUALITY if deterministic else frozenset()
        self._place: Place | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._inner.__set_name__(owner, name)

    def placed(self, identity: str, db_path: str) -> Self:
        own = object.__new__(type(self))
        vars(own).update(vars(self))
        own._place = Place(identity, db_path)
        return own

    def annotation(self) -> Any:
        return self._inner.value_annotation()

    def json_type(self) -> Any:
        return self._inner.json_annotation()

    def bson_schema(self) -> dict[str, Any]:
        return {"bsonType": "binData"}

    def encode(self, value: Any) -> Any:
        if value is None or isinstance(value, Unsealed | Sealed):
            return value
        return Unsealed(self._inner.freeze(self._inner.encode(value)))

    def decode(self, value: Any) -> Any:
        if isinstance(value, Unsealed | Sealed):
            return self._inner.decode(self._inner.freeze(value.opened()))
        if is_ciphertext(value):
            place = self._place or Place(self.model_name, self.name)
            raise failed(place, "it was read past the plugin 'security'")
        return value

    def comparable(self, stored: Any) -> Any:
        return stored.opened() if isinstance(stored, Unsealed | Sealed) else stored

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        env = find_env()
        cipher = None if env is None else env.app.services.of_type(Encryption).cipher
        if self._place is None or cipher is None or not cipher.ring.keys:
            raise unavailable()
        form = self._inner.operand(value)
        try:
            data = to_bson({_KEY: form})
        except Exception:
            raise ValueError("it is compared with one whole value") from None
        place = self._place
        return OneOf(tuple(cipher.encrypt_alike(data, place, key) for key in cipher.ring.keys))

    @property
    def sampled_as(self) -> Field[Any, Any]:
        """The field whose samples are values of this one, for factories."""
        inner: Field[Any, Any] = self._inner
        return inner


def _check_inner(inner: object) -> None:
    if not isinstance(inner, Field):
        raise TypeError(f"Encrypted() takes a field, e.g. Encrypted(String()), not {inner!r}")
    kind = type(inner).__name__
    if inner.secret:
        raise TypeError(f"Encrypted({kind}()): the field inside is secret itself")
    if (
        inner.of_records
        or inner.computed is not None
        or inner.generated
        or not (inner.stored and inner.assignable)
    ):
        raise TypeError(f"Encrypted({kind}()): its values are set by a record's own write")
    for inside in (inner, *_inside(inner)):
        if hasattr(inside, "comodel_name") or hasattr(inside, "on_delete"):
            raise TypeError(
                f"Encrypted({kind}()): the database could not follow a link inside; encrypt the values"
            )
    given = {
        "default": inner.default is not None,
        "required": inner.required,
        **{name: name in inner.given_options for name in FieldOptions.__annotations__},
    }
    given |= {name: bool(getattr(inner, name, False)) for name in ("auto_now", "auto_now_add")}
    for option, is_given in given.items():
        if is_given:
            raise TypeError(
                f"Encrypted({kind}({option}=...)): give {option}= to Encrypted(), which is the field "
                f"of the model"
            )
    if inner.async_validators:
        raise TypeError(f"Encrypted({kind}(validators=...)): one that waits stands at Encrypted()")


def _inside(field: Field[Any, Any]) -> Iterable[Field[Any, Any]]:
    contents = field.contents()
    if contents.each is not None:
        yield contents.each
        yield from _inside(contents.each)
    elif contents.model is not None:
        for inner in (field.fields_inside() or {}).values():
            yield inner
            yield from _inside(inner)
