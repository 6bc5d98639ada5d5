"""Templates: text with the few marks that ``plugin_template`` needs.

``«name»`` is a value. Lines between ``«#field|model»`` and ``«/field|model»``, each on a line of its
own, are kept if one of these parts is wanted; after ``«^field»`` if none is. ``«list A B?field»`` is
the wanted ones of some names, with commas: ``B`` if the part ``field`` is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_SECTION: Final = re.compile(r"^«([#^/])([\w|]+)»$")
_LIST: Final = re.compile(r"«list ((?:[^«»]|«\w+»)+)»")
_VALUE: Final = re.compile(r"«(\w+)»")


def render(template: str, values: Mapping[str, str], parts: Collection[str]) -> str:
    """Fill a template in.

    Args:
        template: The text.
        values: The values by name.
        parts: The names of the wanted parts; ``any`` is one of them where there is one.

    Raises:
        ValueError: The template has an unknown value or a section that does not end.
    """
    wanted = {*parts, "any"} if parts else set[str]()
    lines: list[str] = []
    open_sections: list[tuple[str, bool]] = []
    for line in template.splitlines():
        mark = _SECTION.match(line)
        if mark is None:
            if all(is_kept for _, is_kept in open_sections):
                lines.append(_filled(line, values, wanted))
            continue
        kind, names = mark.groups()
        if kind != "/":
            is_any = not wanted.isdisjoint(names.split("|"))
            open_sections.append((names, is_any == (kind == "#")))
        elif not open_sections or open_sections.pop()[0] != names:
            raise ValueError(f"{line} ends no section")
    if open_sections:
        raise ValueError(f"the section {open_sections[-1][0]} does not end")
    text = "".join(f"{line}\n" for line in lines)
    return re.sub(r"\n{4,}", "\n\n\n", text)  # what a section that was left out leaves


def _filled(line: str, values: Mapping[str, str], wanted: Collection[str]) -> str:
    def listed(match: re.Match[str]) -> str:
        names = (item.partition("?")[::2] for item in match[1].split())
        return ", ".join(name for name, parts in names if _is_wanted(parts, wanted))

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"no value is named {match[1]!r}")
        return values[match[1]]

    return _VALUE.sub(value, _LIST.sub(listed, line))


def _is_wanted(parts: str, wanted: Collection[str]) -> bool:
    if parts.startswith("^"):
        return not any(part in wanted for part in parts[1:].split("|"))
    return not parts or any(part in wanted for part in parts.split("|"))
