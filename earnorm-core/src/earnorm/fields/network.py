"""IPAddress: the address of a host, version 4 or 6."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Unpack

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.domain import Domain, condition
from earnorm.fields.base import ConvertingField, FieldOptions, N, Validator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291, section 2.5.5.2


class IPAddress(ConvertingField[Address, N]):
    """An IP address, stored as the 16 bytes of version 6 (version 4 as ``::ffff:a.b.c.d``).

    So order and ranges work, also across the versions, and an index serves the range of
    ``in_network``; as texts, 10.0.0.9 would come after 10.0.0.10. Such a mapped address is read as
    version 4. Zones (``fe80::1%eth0``) name an interface of one host, and are refused.

    Args:
        version: 4 or 6 if only that version is allowed.
    """

    lossy = True
    identifies = False
    version: Literal[4, 6] | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: Address | Callable[[], Address] | None = None,
        choices: Sequence[Address] | None = None,
        validators: Iterable[Validator[Address]] = (),
        version: Literal[4, 6] | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        if version not in (None, 4, 6):
            raise ValueError(f"version is 4 or 6, not {version!r}")
        self._bind(required, default, choices, validators, options)
        self.version = version

    def annotation(self) -> Any:
        formats = ("ipv4", "ipv6") if self.version is None else (f"ipv{self.version}",)
        kinds = [{"type": "string", "format": name} for name in formats]
        return Annotated[
            Any,
            pydantic.PlainValidator(self._checked),
            pydantic.PlainSerializer(str, return_type=str, when_used="json-unless-none"),
            pydantic.WithJsonSchema(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}),
        ]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "binData"}

    def _checked(self, value: Any) -> Address:
        address = _address(value)
        if address is None or self.version not in (None, address.version):
            version = f" of version {self.version}" if self.version else ""
            raise PydanticCustomError(
                "ip_address", "not an IP address{version}", {"version": version}
            )
        return address

    def is_decoded(self, value: Any) -> bool:
        return isinstance(value, Address)

    def encode(self, value: Any) -> Any:
        if isinstance(value, ipaddress.IPv4Address):
            return _MAPPED + value.packed
        return value.packed if isinstance(value, ipaddress.IPv6Address) else value

    def decode(self, value: Any) -> Any:
        if isinstance(value, bytes) and len(value) == 16:
            address = ipaddress.IPv6Address(bytes(value))
            return address.ipv4_mapped or address
        return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        address = _address(value)
        if address is None:
            raise ValueError(
                f"{self.name} is compared with an IP address or its text, not {type(value).__name__}"
            )
        return self.encode(address)

    def in_network(self, network: Network | str) -> Domain:
        """Match an address in this network: ``Visit.ip.in_network("10.0.0.0/8")``.

        Raises:
            ValueError: It is not a network, or has bits set after its prefix.
        """
        addresses = ipaddress.ip_network(network)
        return condition(self.path, ">=", addresses[0]) & condition(self.path, "<=", addresses[-1])


def _address(value: Any) -> Address | None:
    if isinstance(value, str):
        try:
            value = ipaddress.ip_address(value)
        except ValueError:
            return None
    if isinstance(value, ipaddress.IPv6Address):
        if value.scope_id is not None:
            return None
        return value.ipv4_mapped or value
    return value if isinstance(value, ipaddress.IPv4Address) else None
