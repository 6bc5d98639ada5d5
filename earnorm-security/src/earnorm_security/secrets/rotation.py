"""Rotation: encrypts anew, under the first key, what was encrypted under others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson import Binary

from earnorm import App, BaseModel, ConfigurationError, Domain, DuplicateKey, Env, current_env
from earnorm.plugin import (
    WAY,
    ModelView,
    Operation,
    Options,
    Update,
    Way,
    made_by,
    nearest,
    pause,
)
from earnorm_security.secrets.cipher import SUBTYPE, Cipher, key_name
from earnorm_security.secrets.encryption import Encrypted, Encryption, Sealed
from earnorm_security.secrets.errors import DecryptionFailed, RotationIncomplete
from earnorm_security.secrets.places import Node, tree_of
from earnorm_security.secrets.sealing import bytes_of

_REASON: Final = "security: rotate the keys of encrypted fields"
_PASSES: Final = 5
"""The number of times that a model is read, for what other writers have changed meanwhile."""

Tell = Callable[[str], object]


@dataclass(slots=True)
class Rotated:
    """The result of a rotation of one model's keys.

    Attributes:
        read: The records that were read.
        encrypted: Those with values that were encrypted anew.
        left: Those that still have values under other keys.
        unreadable: Those with values that no key of the App decrypts.
    """

    read: int = 0
    encrypted: int = 0
    left: int = 0
    unreadable: int = 0


async def rotate_all(app: App, only: str | None, batch: int, tell: Tell) -> dict[str, Rotated]:
    """Rotate the keys of all models with encrypted fields, or of one.

    Raises:
        ConfigurationError: There is no such model, or it has no encrypted field.
        KeysUnavailable: The keys cannot be had.
        RotationIncomplete: Some values are still under other keys.
    """
    if batch < 1:
        raise ConfigurationError("security rotate: --batch is a number of records from 1")
    cipher = await app.services.of_type(Encryption).reload()
    models = {ModelView(m).name: m for m in app.usable_models() if _encrypted(ModelView(m))}
    if only is not None and only not in models:
        raise ConfigurationError(
            f"security rotate: {only!r} is no model with encrypted fields{nearest(only, models)}"
        )
    done: dict[str, Rotated] = {}
    for name, model in models.items():
        if only in (None, name):
            done[name] = await rotate(app, model, cipher, batch, tell)
    left = sum(result.left + result.unreadable for result in done.values())
    key = cipher.ring.primary.name
    if left:
        raise RotationIncomplete(
            f"security rotate: {left} records still have values under other keys than {key!r}"
        )
    tell(f"nothing is left under other keys than {key!r}")
    return done


def _encrypted(view: ModelView) -> bool:
    return any(_secret_keys(tree_of(view.fields.values())))


def _secret_keys(tree: Node) -> Iterable[str]:
    """Yield the stored keys of a document below which encrypted values lie."""
    for key, node in tree.keys.items():
        if any(isinstance(secret, Encrypted) for secret in _secrets(node)):
            yield key


def _secrets(node: Node) -> Iterable[Any]:
    if node.secret is not None:
        yield node.secret
    for below in (*node.keys.values(), *(() if node.each is None else (node.each,))):
        yield from _secrets(below)


async def rotate(
    app: App, model: type[BaseModel], cipher: Cipher, batch: int, tell: Tell
) -> Rotated:
    """Rotate the keys of one model's records."""
    view = ModelView(model)
    env = current_env().as_system(_REASON)
    tree = tree_of(view.fields.values())
    stored = view.stored
    keys = list(_secret_keys(tree))
    names = frozenset({"_id", *(stored[key].name for key in keys)})
    result = Rotated()
    total = await app.execute(_op("count", model, env, Domain.TRUE))
    for number in range(_PASSES):
        changed = left = 0
        last: Any = None
        result.unreadable = 0
        while True:
            after = Domain.TRUE if last is None else Domain([("id", ">", last)])
            options = Options(order=(("_id", 1),), limit=batch, fields=names)
            documents = await app.execute(_op("search", model, env, after, options=options))
            if not documents:
                break
            for document in documents:
                await pause()
                done = await _one(app, model, env, cipher, tree, keys, document, result)
                changed += done is True
                left += done is False
            last = documents[-1]["_id"]
            if not number:
                result.read += len(documents)
                tell(
                    f"{view.name}: {result.read} of {total} read, {result.encrypted} encrypted anew"
                )
        result.left = left
        if not left:
            break
    tell(
        f"{view.name}: {result.encrypted} encrypted anew, {result.left} left, "
        f"{result.unreadable} unreadable"
    )
    return result


async def _one(
    app: App,
    model: type[BaseModel],
    env: Env,
    cipher: Cipher,
    tree: Node,
    keys: Sequence[str],
    document: dict[str, Any],
    result: Rotated,
) -> bool | None:
    """Encrypt one record's values anew; return False if another writer came first."""
    primary, pk = cipher.ring.primary.name, document["_id"]
    stale = False

    def again(field: Any, value: Any, path: str) -> Any:
        nonlocal stale
        if not isinstance(value, Sealed):
            return value
        if key_name(value) == primary:
            return Binary(bytes(value), SUBTYPE)
        stale = True
        if field.deterministic:
            return cipher.encrypt_alike(value.data(), value.place)
        return cipher.encrypt(value.data(), value.place, bytes_of(pk))

    change: dict[str, Any] = {}
    expect: dict[str, Any] = {}
    try:
        for key in keys:
            if key in document:
                stale = False
                fresh = tree.keys[key].walk(document[key], key, again)
                if stale:
                    change[key], expect[key] = fresh, document[key]
    except DecryptionFailed:
        result.unreadable += 1
        return None
    if not change:
        return None
    update = Update({"$set": change}, expect=expect)
    try:
        written = await app.execute(_op("write", model, env, Domain([("id", "=", pk)]), update))
    except DuplicateKey:
        return False  # another record has the value under the first key
    result.encrypted += bool(written)
    return bool(written)


def _op(
    name: Any,
    model: type[BaseModel],
    env: Env,
    domain: Domain,
    values: Update | None = None,
    options: Options | None = None,
) -> Operation:
    notes = {**made_by("security"), WAY: Way.DERIVED}
    return Operation(name, model, env, domain, values, options or Options(), notes)
