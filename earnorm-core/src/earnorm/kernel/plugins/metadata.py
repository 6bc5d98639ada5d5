"""The metadata of installed distributions, read once for each state of the places they lie in.

An App looks for its plugins when it is made. To read all metadata takes 5 ms, and a process that
makes many Apps, a test run for example, made a seventh of its work of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import importlib_metadata

from earnorm.kernel.hookspecs import GROUP

_State = tuple[object, ...]


class _Metadata:
    """The metadata that was read in one state of the places.

    Attributes:
        state: See :func:`_state`.
        points: The entry points of plugins.
        distributions: The name and version of the distribution of each of these points, by the
            point's ``id()``: points of two distributions may be equal.
        versions: The versions of distributions, by name; empty if one is not installed.
    """

    def __init__(self, state: _State) -> None:
        self.state = state
        self.points = tuple(importlib_metadata.entry_points(group=GROUP))
        self.distributions: dict[int, tuple[str, str]] = {}
        self.versions: dict[str, str] = {}


_read: _Metadata | None = None


def _state() -> _State:
    """Return what changes when a distribution is installed or removed, or found in another way."""
    # An installation makes a directory beside the others, as importlib's own finder expects.
    return (*_places(), *sys.meta_path, importlib_metadata.entry_points)


def _places() -> Iterator[tuple[str, int]]:
    for path in sys.path:
        try:
            yield path, os.stat(path or ".").st_mtime_ns
        except OSError:
            yield path, 0


def _metadata() -> _Metadata:
    global _read
    state = _state()
    if _read is None or _read.state != state:
        _read = _Metadata(state)
    return _read


def entry_points() -> tuple[importlib_metadata.EntryPoint, ...]:
    """Return the entry points of all installed plugins, as they are now.

    What is told of their distributions is as new as the last call.
    """
    return _metadata().points


def distribution_of(point: importlib_metadata.EntryPoint) -> tuple[str, str]:
    """Return the name and the version of the distribution that registers a plugin."""
    metadata = _read or _metadata()
    found = metadata.distributions.get(id(point))
    if found is None:
        distribution = point.dist
        found = (distribution.name, distribution.version) if distribution else ("", "")
        if any(point is known for known in metadata.points):
            metadata.distributions[id(point)] = found
    return found


def distribution_version(distribution: str) -> str:
    """Return the version of an installed distribution; empty if it is not installed as one."""
    known = (_read or _metadata()).versions
    if distribution not in known:
        try:
            known[distribution] = importlib_metadata.version(distribution)
        except importlib_metadata.PackageNotFoundError:
            known[distribution] = ""
    return known[distribution]
