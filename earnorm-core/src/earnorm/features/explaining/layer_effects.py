"""The effects of layers on one search: the domain before and after each, for ``system`` only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from earnorm.kernel.operations import Options
from earnorm.kernel.plugins.tracing import layer_name

if TYPE_CHECKING:
    from earnorm.domain import Domain
    from earnorm.kernel.layers import PlacedLayer
    from earnorm.kernel.operations import Operation

_OPTIONS: Final = tuple(option.name for option in fields(Options))


@dataclass(frozen=True, slots=True, repr=False)
class LayerEffect:
    """The effect of one layer, or of a ``base_domain``, on a search.

    Attributes:
        plugin: The plugin or feature; ``"core"`` for a part of the kernel.
        place: The name of the layer (``"SECURITY"``), or ``"base_domain"`` for a part of
            ``register_reading``, which comes before all layers.
        layer: The number of the layer; None for a ``base_domain``.
        before: The domain that it got.
        after: The domain that it passed on; None if it passed nothing on.
        options: The options that it changed: the value before and after, by name.
        notes: The names of the notes that it left for the layers behind it.
    """

    plugin: str
    place: str
    layer: int | None
    before: Domain
    after: Domain | None
    options: Mapping[str, tuple[object, object]]
    notes: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        """True if it did not pass on what it got."""
        return bool(self.after != self.before or self.options or self.notes)

    @override
    def __str__(self) -> str:
        who = f"{self.place}{'' if self.layer is None else f' {self.layer}'} {self.plugin}: "
        if self.after is None:
            return f"{who}passed nothing on"
        told: list[str] = []
        if self.after != self.before:
            told.append(f"domain {self.before.to_list()} → {self.after.to_list()}")
        told += [
            f"{name} {_shown(one)} → {_shown(two)}" for name, (one, two) in self.options.items()
        ]
        if self.notes:
            told.append(f"note {', '.join(self.notes)}")
        return who + ("; ".join(told) or "no change")

    @override
    def __repr__(self) -> str:
        # The domains have the values of rules and of the search.
        return f"<LayerEffect {self.place} {self.plugin}{' changed' if self.changed else ''}>"


def _shown(value: object) -> str:
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)


class Effects:
    """Notes the effects of layers while a search passes them."""

    def __init__(self) -> None:
        self._entered: list[tuple[PlacedLayer, Operation]] = []
        self._passed: dict[int, Operation] = {}

    def entered(self, placed: PlacedLayer, op: Operation) -> None:
        """Note the operation that a layer gets."""
        self._entered.append((placed, op))

    def passed(self, placed: PlacedLayer, op: Operation) -> None:
        """Note the operation that a layer passes on: the last one, of a layer that tries again."""
        latest = max(i for i, (layer, _) in enumerate(self._entered) if layer is placed)
        self._passed[latest] = op

    def noted(self) -> list[LayerEffect]:
        """Return the effect of each layer, outermost first."""
        return [
            _effect(placed, op, self._passed.get(position))
            for position, (placed, op) in enumerate(self._entered)
        ]


def _effect(placed: PlacedLayer, before: Operation, after: Operation | None) -> LayerEffect:
    options: dict[str, tuple[Any, Any]] = {}
    notes: list[str] = []
    if after is not None:
        pairs = {
            name: (getattr(before.options, name), getattr(after.options, name)) for name in _OPTIONS
        }
        options = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        notes = sorted(
            note.name for note, value in after.notes.items() if before.notes.get(note) is not value
        )
    return LayerEffect(
        placed.plugin or "core",
        layer_name(placed.layer),
        placed.layer,
        before.domain,
        None if after is None else after.domain,
        options,
        notes,
    )
