"""The numbers of a health report as metrics, in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_STATUS: Final = {"ok": 0, "degraded": 1}
_FAILED: Final = 2
_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")
_LABEL: Final = re.compile(r"by_([a-zA-Z][a-zA-Z0-9_]*)")
"""The key of a mapping whose keys are values of a label."""
_OWN: Final = frozenset(["app", "part"])


def metrics_text(app: str, report: Mapping[str, Mapping[str, object]]) -> str:
    """Return a line for each number in a health report, and for the status of each of its parts.

    Texts and lists of a report are left out.

    Args:
        app: The name of the App, which is the label of each line.
        report: The parts by name; values that are mappings give their own numbers. Under the key
            ``by_model`` the keys of a mapping are values of the label ``model``, and likewise for
            any other word.
    """
    label = f'app="{_quoted(app)}"'
    lines = [
        f'earnorm_status{{{label},part="{_quoted(part)}"}} {_status(values)}'
        for part, values in report.items()
    ]
    # A name that occurs twice with the same labels would make the whole text unreadable, and all lines of
    # one name stand together.
    by_name: dict[str, dict[str, str]] = {}
    for name, labels, number in _numbers("earnorm", {}, report):
        said = "".join(f',{key}="{_quoted(value)}"' for key, value in sorted(labels.items()))
        by_name.setdefault(name, {})[said] = number
    for name, numbers in by_name.items():
        lines += (f"{name}{{{label}{said}}} {number}" for said, number in numbers.items())
    return "".join(f"{line}\n" for line in lines)


def _status(values: Mapping[str, object]) -> int:
    return _STATUS.get(str(values.get("status")), _FAILED)


def _numbers(
    name: str, labels: Mapping[str, str], value: Any
) -> Iterator[tuple[str, Mapping[str, str], str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            label = _LABEL.fullmatch(str(key))
            if label is None or label[1] in _OWN or not isinstance(inner, Mapping):
                yield from _numbers(f"{name}_{_NO_NAME.sub('_', str(key))}", labels, inner)
            else:
                for each, numbers in inner.items():
                    yield from _numbers(name, {**labels, label[1]: str(each)}, numbers)
    elif isinstance(value, bool | int):
        yield name, labels, str(int(value))
    elif isinstance(value, float):
        yield name, labels, repr(value) if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
