"""Attaches secret fields to an App: their keys, the layers of models that have some, their checks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from earnorm import App, BaseModel, ConfigurationError
from earnorm.fields import Field
from earnorm.plugin import Middleware, ModelView, OperationName, Reading
from earnorm_security.secrets.encryption import Encrypted, Encryption
from earnorm_security.secrets.errors import KeysUnavailable
from earnorm_security.secrets.extras import needed
from earnorm_security.secrets.keys import KeyProvider, provider_of
from earnorm_security.secrets.passwords import Password
from earnorm_security.secrets.sealing import READY, SEAL, Sealing

log = logging.getLogger("earnorm.security")

_IS_READ: Final = frozenset({"search", "count", "group", "write", "unlink"})


class ServiceKeys:
    """The keys of another plugin's service, which the App knows once it starts."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self._name = name

    def keys(self) -> Any:
        """Ask the service."""
        service = self._app.services[self._name]
        if not isinstance(service, KeyProvider):
            raise ConfigurationError(f"the service {self._name!r} has no method keys()")
        return service.keys()

    def __repr__(self) -> str:
        return f"<keys of the service {self._name}>"


def provider(app: App, source: object) -> KeyProvider | None:
    """Return the provider of the keys that a setting means; None where there is no setting."""
    if source is None:
        return None
    given = provider_of(source)
    return given or ServiceKeys(app, cast("str", source).partition(":")[2])


async def start(app: App) -> None:
    """Fetch the keys, if the App is to have some; a failure is told, and tried again when needed."""
    encryption = app.services.of_type(Encryption)
    if encryption.has_provider:
        try:
            await encryption.ready()
        except KeysUnavailable as error:
            log.error("App %r: %s", app.name, error)


def needing(model: ModelView) -> str | None:
    """Return the field of a model for which the plugin has to be there, in words; else None."""
    for name, field in model.fields.items():
        for inner in (field, *_inside(field, set())):
            if isinstance(inner, Password | Encrypted):
                return f"the field {name!r} ({type(inner).__name__})"
    return None


def check(app: App, model: ModelView) -> None:
    """Check that what the secret fields of a model need is there, before anything is stored.

    Raises:
        ConfigurationError: An extra is not installed, or the App has no keys.
    """
    for name, field in model.fields.items():
        for inner in (field, *_inside(field, set())):
            if isinstance(inner, Password):
                needed("argon2", "password", f"{model.name}.{name}: Password()")
            elif isinstance(inner, Encrypted):
                needed("cryptography", "encryption", f"{model.name}.{name}: Encrypted()")
                if not app.services.of_type(Encryption).has_provider:
                    raise ConfigurationError(
                        f"{model.name}.{name}: Encrypted() needs keys, and App {app.name!r} has none: "
                        f'App(..., security={{"keys": "env:NAME"}})'
                    ).coded("security_encryption_keys")


def layers(
    app: App, model: type[BaseModel], operation: OperationName
) -> Sequence[tuple[int, Middleware]]:
    """Return the layers of one kind of operation; none for a model without secret values."""
    view = ModelView(model)
    if needing(view) is None and view.root is None:
        return ()
    sealing = _sealing(app, view)
    ready = ((READY, sealing.ready),) if operation in _IS_READ else ()
    if operation == "create":
        return ((SEAL, sealing.create),)
    if operation == "write":
        return (*ready, (SEAL, sealing.write))
    return (*ready, (SEAL, sealing.search)) if operation == "search" else ready


def reading(app: App, model: ModelView) -> Reading | None:
    """Return what binds the documents of change events; None for a model without secret values."""
    if needing(model) is None:
        return None
    sealing = _sealing(app, model)
    return Reading(of_events=lambda bound, found: sealing.bind(app, bound.model, found))


def _sealing(app: App, view: ModelView) -> Sealing:
    return Sealing(app.services.of_type(Encryption), view)


def _inside(field: Field[Any, Any], seen: set[int]) -> Sequence[Field[Any, Any]]:
    contents = field.contents()
    if contents.each is not None:
        return (contents.each, *_inside(contents.each, seen))
    if contents.model is None or id(contents.model) in seen:
        return ()
    seen.add(id(contents.model))
    found: list[Field[Any, Any]] = []
    for inner in (field.fields_inside() or {}).values():
        found += (inner, *_inside(inner, seen))
    return found
