"""The services that plugins offer in one App, by name and by type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from earnorm.exceptions import PluginError, nearest

T = TypeVar("T")


class Services(Mapping[str, object]):
    """A read-only mapping of names to services; ``of_type`` finds one by its class, typed."""

    def __init__(self) -> None:
        self._services: dict[str, object] = {}
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

    def of_type(self, kind: type[T]) -> T:
        """Return the service that is an instance of ``kind``.

        Raises:
            PluginError: There is none, or there are several.
        """
        services = [service for service in self._services.values() if isinstance(service, kind)]
        if len(services) != 1:
            raise PluginError(
                f"{len(services)} services of this App are a {kind.__name__}, not one"
            )
        return services[0]

    def __getitem__(self, name: str) -> object:
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
