"""The core's own plugins and features, as an App has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module

from earnorm.exceptions import ConfigurationError, PluginError, nearest
from earnorm.kernel.plugins.selection import Selection


def import_class(place: str) -> type:
    """Import a class by its place, which is written as in entry points: ``"module:Class"``."""
    module, _, name = place.partition(":")
    cls: type = getattr(import_module(module), name)
    return cls


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The core's own plugins.

    Args:
        always: The class of each plugin that no App can leave out, by its name, as
            ``"module:Class"``.
        features: The features, by name: the place of a class, or, for a feature without hooks, the
            package whose functions the methods of models and queries call.
        left_out: Names of features that the App leaves out.
        settings: The arguments with which a feature's class is made, by the feature's name.
        parameters: The names of the App's own parameters, which no plugin's settings can have.
    """

    always: Mapping[str, str]
    features: Mapping[str, str]
    left_out: Collection[str] = ()
    settings: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict[str, Mapping[str, object]]
    )
    parameters: Collection[str] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of the features and plugins that the App has."""
        return self.present | self.always.keys()

    def refuse_name(self, name: str, distribution: str) -> None:
        """Refuse a plugin that has the name of a built-in one, or of a parameter of App.

        It may take the place of a feature that the App leaves out.

        Raises:
            PluginError: It has.
        """
        given = f" of {distribution}" if distribution else ""
        if name in self.names:
            raise PluginError(
                f"a feature of the core has the name {name!r}; give the plugin{given} another"
            ).coded("name_taken")
        if name in self.parameters:
            raise PluginError(
                f"App has a parameter {name!r}, so a plugin of this name could get no settings; "
                f"give the plugin{given} another"
            ).coded("name_taken")

    def checked(self, selection: Selection) -> BuiltIn:
        """Return a copy that also leaves out the features that the selection disables.

        Raises:
            ConfigurationError: A feature to leave out does not exist, or is always there.
        """
        for name in self.left_out:
            if name not in self.features:
                raise ConfigurationError(
                    f"App.left_out: there is no feature {name!r}{nearest(name, self.features)}"
                ).coded("unknown_feature")
        return replace(
            self, left_out={*self.left_out, *(selection.disabled & self.features.keys())}
        )

    @property
    def present(self) -> frozenset[str]:
        """The names of the features that the App has."""
        return frozenset(self.features).difference(self.left_out)

    def classes(self) -> Iterator[tuple[str, type]]:
        """Import the class of each plugin and feature that has hooks, those left out included."""
        for name, place in (*self.always.items(), *self.features.items()):
            if ":" in place:
                yield name, import_class(place)
