"""The services that plugins offer in one App, by name and by type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, overload

from earnorm.exceptions import PluginError, nearest

T = TypeVar("T")
D = TypeVar("D")


class Services(Mapping[str, Any]):
    """A read-only mapping of names to services; ``get`` and ``of_type`` find one by its class, typed."""

    def __init__(self) -> None:
        self._services: dict[str, Any] = {}
        self._owners: dict[str, str] = {}

    def add(self, name: str, service: object, owner: str) -> None:
        """Offer a service.

        Raises:
            PluginError: Another plugin offers a service of that name.
        """
        first_owner = self._owners.get(name)
        if first_owner is not None:
            raise PluginError(
                f"plugins {first_owner!r} and {owner!r} both offer a service named {name!r}; "
                f"disable one of them"
            )
        self._services[name] = service
        self._owners[name] = owner

    @overload
    def get(self, key: str, /) -> Any: ...
    @overload
    def get(self, key: str, /, default: Any) -> Any: ...
    @overload
    def get(self, key: type[T], /, default: None = None) -> T | None: ...
    @overload
    def get(self, key: type[T], /, default: D) -> T | D: ...
    def get(  # pyright: ignore[reportIncompatibleMethodOverride] # its texts are all of Mapping's; a class is more
        self, key: type[Any] | str, /, default: object = None
    ) -> Any:
        """Return the service of this class, or of this name; the default if no plugin offers one.

        Raises:
            PluginError: There are several of the class.
        """
        if isinstance(key, str):
            return self._services.get(key, default)
        services = self._of_type(key)
        return self._only(key, services) if services else default

    def of_type(self, kind: type[T]) -> T:
        """Return the service that is an instance of ``kind``.

        Raises:
            PluginError: There is none, or there are several.
        """
        return self._only(kind, self._of_type(kind))

    def _of_type(self, kind: type[T]) -> list[T]:
        return [service for service in self._services.values() if isinstance(service, kind)]

    @staticmethod
    def _only(kind: type[T], services: list[T]) -> T:
        if len(services) != 1:
            raise PluginError(
                f"{len(services)} services of this App are a {kind.__name__}, not one"
            )
        return services[0]

    def __getitem__(self, name: str) -> Any:
        try:
            return self._services[name]
        except KeyError:
            raise PluginError(
                f"no plugin of this App offers a service named {name!r}"
                f"{nearest(name, self._services)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._services

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)
