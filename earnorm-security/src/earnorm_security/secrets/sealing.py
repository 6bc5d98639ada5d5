"""The layer between the document steps and everything that stores: it hashes, encrypts, and binds.

What lies further in (the audit, hooks, caches, the database) sees hashes and ciphertexts alone. What
comes back gets its place, so that a record can decrypt it when it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from bson import Binary

from earnorm import App, BaseModel, Domain, Env, NotSupported, PluginError
from earnorm.plugin import (
    RETURNED,
    WAY,
    Call,
    Layer,
    ModelView,
    Operation,
    PerRecord,
    Update,
    Way,
    find_env,
    ids_of,
    made_by,
    pause,
    slices,
    to_bson,
    without_positions,
)
from earnorm_security.secrets.cipher import SUBTYPE, Cipher, Place, is_ciphertext
from earnorm_security.secrets.encryption import Encrypted, Encryption, Sealed, Unsealed
from earnorm_security.secrets.errors import KeysUnavailable
from earnorm_security.secrets.passwords import Password, PasswordHash, StoredHash
from earnorm_security.secrets.places import Convert, Node, tree_of

SEAL: Final = Layer.STEPS + 20
"""Further in than the steps, which see values, and further out than the audit."""
READY: Final = 10
"""Before anything compiles a condition, which needs the keys."""
EVERY: Final = 50
"""The number of documents between two pauses."""
_REASON: Final = "security: a password was hashed with other parameters"
_SET: Final = frozenset({"$set", "$setOnInsert"})
_WITHOUT_VALUES: Final = frozenset({"$unset", "$pop"})

Document = dict[str, Any]
Found = list[tuple[Any, Any]]
"""The secret values of a change, each with its field."""


def bytes_of(pk: Any) -> bytes:
    """Return the bytes of a stored id, to which a ciphertext is bound."""
    return to_bson({"": pk})


class Trees:
    """The places of secret values in a model and its subclasses."""

    def __init__(self) -> None:
        self._trees: WeakKeyDictionary[type[BaseModel], Node] = WeakKeyDictionary()

    def of(self, model: type[BaseModel]) -> Node:
        """Return the tree of a model."""
        tree = self._trees.get(model)
        if tree is None:
            tree = self._trees[model] = tree_of(ModelView(model).fields.values())
        return tree

    def of_documents(
        self, app: App, model: type[BaseModel], documents: Sequence[Document]
    ) -> Iterable[tuple[Document, Node]]:
        """Yield each document with the tree of its class."""
        classes = app.bind(model).classes
        if classes is None:
            tree = self.of(model)
            return ((document, tree) for document in documents)
        models = classes.of(documents)
        return ((d, self.of(m)) for d, m in zip(documents, models, strict=True))

    def all_of(self, app: App, model: type[BaseModel]) -> Sequence[Node]:
        """Return the trees of a model and of its subclasses."""
        classes = app.bind(model).classes
        below = () if classes is None else [bound.model for _, bound in classes.below()]
        return [tree for m in (model, *below) if (tree := self.of(m)).keys]


class Sealing:
    """The layer of one model."""

    def __init__(self, encryption: Encryption, view: ModelView) -> None:
        self._trees = Trees()
        self._encryption = encryption
        self._identity = view.identity
        self._schema = view.schema

    # -- before everything --------------------------------------------------------------------

    async def ready(self, op: Operation, call_next: Call, /) -> Any:
        """Try to have the keys before a condition asks for them."""
        if not self._encryption.is_ready():
            with suppress(KeysUnavailable):  # whatever needs them says so, the rest goes on
                await self._encryption.ready()
        return await call_next(op)

    # -- reading ------------------------------------------------------------------------------

    async def search(self, op: Operation, call_next: Call, /) -> Any:
        """Bind what was read to its places."""
        found = await call_next(op)
        if isinstance(found, list):
            for part in slices(found, EVERY):
                self.bind(op.app, op.model, part)
                if len(part) == EVERY:
                    await pause()
        return found

    def bind(self, app: App, model: type[BaseModel], documents: Sequence[Document]) -> None:
        """Give secret values in stored documents their places, in the documents themselves."""
        for document, tree in self._trees.of_documents(app, model, documents):
            pk = document.get("_id")
            if pk is not None and tree.keys:
                bound = partial(self._bound, app, model, pk, bytes_of(pk))
                for key, node in tree.keys.items():
                    if key in document:
                        document[key] = node.walk(document[key], key, bound)

    def _bound(
        self,
        app: App,
        model: type[BaseModel],
        pk: Any,
        pk_bytes: bytes,
        field: Any,
        value: Any,
        path: str,
    ) -> Any:
        if isinstance(field, Encrypted):
            if not is_ciphertext(value):
                return value
            place = Place(self._identity, without_positions(path))
            return Sealed.read(value, self._encryption.cipher, place, pk_bytes)
        if isinstance(value, str):
            stored = StoredHash(value)
            stored.renew = partial(_renew, app, model, pk, path)
            return stored
        return value

    # -- writing ------------------------------------------------------------------------------

    async def create(self, op: Operation, call_next: Call, /) -> Any:
        """Hash and encrypt in new documents."""
        tree = self._trees.of(op.model)
        if not tree.keys:
            return await call_next(op)
        found: Found = []
        for number, document in enumerate(op.documents, 1):
            tree.document(document, _noting(found))
            if not number % EVERY:
                await pause()
        cipher = await self._made(found)
        documents: list[Document] = []
        for document in op.documents:
            seal = partial(self._sealed, cipher, bytes_of(document["_id"]))
            documents.append(tree.document(document, seal))
            if not len(documents) % EVERY:
                await pause()
        return await call_next(op.replace(values=documents))

    async def write(self, op: Operation, call_next: Call, /) -> Any:
        """Hash and encrypt in a change; one that is about several records becomes one for each."""
        trees = self._trees.all_of(op.app, op.model)
        if not trees:
            return await call_next(op)
        found: Found = []
        for number, update in enumerate(op.updates, 1):
            self._change(trees, update, _noting(found))
            if not number % EVERY:
                await pause()
        cipher = await self._made(found)
        values = op.values
        if isinstance(values, PerRecord):
            sealed = PerRecord()
            for pk, update in values.items():
                sealed[pk] = self._for_record(trees, update, cipher, pk)
                if not len(sealed) % EVERY:
                    await pause()
            result = await call_next(op.replace(values=sealed))
        elif any(isinstance(f, Encrypted) and not f.deterministic for f, _ in found):
            result = await self._each(op, call_next, trees, cipher)
        else:
            change = self._change(trees, op.update, partial(self._sealed, cipher, b""))
            result = await call_next(op.replace(values=change))
        returned = op.note(RETURNED)
        if returned is not None and returned.document is not None:
            self.bind(op.app, op.model, [returned.document])
        return result

    async def _each(
        self, op: Operation, call_next: Call, trees: Sequence[Node], cipher: Cipher
    ) -> int:
        """Write a change that is encrypted for each record, in parts."""
        ids = ids_of(op.domain, self._schema)
        if ids is not None and len(set(ids)) == 1:
            change = self._for_record(trees, op.update, cipher, next(iter(ids)))
            alone: int = await call_next(op.replace(values=change))
            return alone
        options = op.options.replace(
            fields=frozenset({"_id"}), limit=0 if op.options.many else 1, order=(), offset=0
        )
        search = op.child("search", op.model, op.domain, options=options, origin="security")
        records = await op.app.execute(search)
        if not op.options.many and records:
            pk = records[0]["_id"]
            change = self._for_record(trees, op.update, cipher, pk)
            first = op.domain & Domain([("id", "=", pk)])
            one: int = await call_next(op.replace(domain=first, values=change))
            return one
        written = 0
        for part in slices([record["_id"] for record in records], 1000):
            sealed = PerRecord()
            for pk in part:
                sealed[pk] = self._for_record(trees, op.update, cipher, pk)
                if not len(sealed) % EVERY:
                    await pause()
            domain = op.domain & Domain([("id", "in", list(part))])
            written += await call_next(op.replace(domain=domain, values=sealed))
        return written

    def _for_record(self, trees: Sequence[Node], update: Update, cipher: Cipher, pk: Any) -> Update:
        return self._change(trees, update, partial(self._sealed, cipher, bytes_of(pk)))

    def _change(self, trees: Sequence[Node], update: Update, convert: Convert) -> Update:
        operators: dict[str, Mapping[str, Any]] = {}
        for name, spec in update.operators.items():
            changed: dict[str, Any] = {}
            for path, operand in spec.items():
                node = next((n for tree in trees if (n := tree.at(path)) is not None), None)
                if node is None or name in _WITHOUT_VALUES:
                    changed[path] = operand
                elif name in _SET:
                    changed[path] = node.walk(operand, path, convert)
                elif name == "$push" and node.each is not None and "$each" in operand:
                    items = node.walk(operand["$each"], path, convert)
                    changed[path] = {**operand, "$each": items}
                else:
                    raise NotSupported(
                        f"{self._identity}: {name} of {path!r} compares or computes secret values"
                    ).coded("security_secret_change")
            operators[name] = changed
        return Update(operators, update.expect, update.where, update.items)

    async def _made(self, found: Found) -> Cipher:
        """Make the hashes of new passwords, and have the keys where something is encrypted."""
        passwords = {id(value): value for _, value in found if isinstance(value, PasswordHash)}
        if passwords:
            await asyncio.gather(*(password.make() for password in passwords.values()))
        if any(isinstance(field, Encrypted) for field, _ in found):
            return await self._encryption.ready()
        return self._encryption.cipher

    def _sealed(self, cipher: Cipher, pk: bytes, field: Any, value: Any, path: str) -> Any:
        if isinstance(field, Password):
            if isinstance(value, PasswordHash):
                return value.stored
            if isinstance(value, str):
                return str.__str__(value)
        elif isinstance(value, Unsealed | Sealed):
            place = Place(self._identity, without_positions(path))
            if isinstance(value, Sealed) and value.is_of(cipher, place, pk or value.pk):
                return Binary(bytes(value), SUBTYPE)
            if field.deterministic:
                return cipher.encrypt_alike(value.data(), place)
            return cipher.encrypt(value.data(), place, pk)
        elif is_ciphertext(value):
            return value
        raise PluginError(
            f"{self._identity}.{path}: a plain value was about to be stored in a secret field; a step "
            f"gives what field.encode(value) returns"
        ).coded("security_plain_value")


def _noting(found: Found) -> Convert:
    def note(field: Any, value: Any, path: str) -> Any:
        found.append((field, value))
        return value

    return note


async def _renew(app: App, model: type[BaseModel], pk: Any, path: str, old: str, new: str) -> bool:
    """Store another hash in the place of one, unless somebody has changed it meanwhile."""
    env: Env | None = find_env()
    if env is None or env.app is not app:
        return False
    change = Update({"$set": {path: new}}, expect={path: old})
    op = Operation(
        "write",
        model,
        env.as_system(_REASON),
        Domain([("id", "=", pk)]),
        change,
        notes={**made_by("security"), WAY: Way.DERIVED},
    )
    return bool(await app.execute(op))
