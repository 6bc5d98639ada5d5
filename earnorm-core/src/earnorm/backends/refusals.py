"""The reasons why a collection's validator refused a document: places and rules, never a value.

The server explains it in ``errInfo``: https://www.mongodb.com/docs/manual/core/schema-validation/handle-invalid-documents/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from earnorm.exceptions import ErrorDetail

KIND: Final = "document_validation"
UNEXPLAINED: Final = "the collection's own validation rules refuse the document"

# The texts about broken rules; a text may quote the rule, but not the value that broke it.
_RULES: Final[Mapping[str, str]] = {
    "bsonType": "is stored as {}",
    "type": "is stored as {}",
    "enum": "is one of {}",
    "minimum": "is at least {}",
    "maximum": "is at most {}",
    "minLength": "has at least {} characters",
    "maxLength": "has at most {} characters",
    "minItems": "has at least {} items",
    "maxItems": "has at most {} items",
    "pattern": "matches {}",
}
_MOST_SHOWN: Final = 200  # characters of a rule


def violations(info: Mapping[str, Any] | None) -> list[ErrorDetail]:
    """Read ``errInfo`` as one detail for each broken rule.

    Args:
        info: The server's ``errInfo``, or None if it gave none.
    """
    details = (info or {}).get("details")
    broken = list(_broken(details, ())) if isinstance(details, Mapping) else []
    return broken or [_detail((), UNEXPLAINED)]


def _detail(loc: tuple[str | int, ...], message: str) -> ErrorDetail:
    return {"loc": loc, "msg": message, "type": KIND}


def _broken(node: Mapping[str, Any], loc: tuple[str | int, ...]) -> Iterator[ErrorDetail]:
    name = str(node.get("operatorName", ""))
    below: list[tuple[tuple[str | int, ...], Any]] = []
    below += [(loc, failure) for failure in node.get("schemaRulesNotSatisfied", ())]
    for failure in node.get("propertiesNotSatisfied", ()):
        below += [((*loc, failure["propertyName"]), inner) for inner in failure.get("details", ())]
    if name == "items" and "itemIndex" in node:
        below += [((*loc, node["itemIndex"]), inner) for inner in node.get("details", ())]
    elif name == "additionalProperties" and "failingProperty" in node:
        below += [((*loc, node["failingProperty"]), inner) for inner in node.get("details", ())]
    for missing in node.get("missingProperties", ()):
        yield _detail((*loc, missing), "the collection demands a value")
    if below:
        for place, inner in below:
            yield from _broken(inner, place)
    elif "missingProperties" not in node and loc:
        rule = node.get("specifiedAs", {}).get(name)
        said = _RULES.get(name)
        if said is None or rule is None:
            yield _detail(loc, f"the collection's rules refuse the value ({name})")
        else:
            yield _detail(loc, f"the collection demands that it {said.format(_shown(rule))}")


def _shown(rule: object) -> str:
    rules = rule if isinstance(rule, list) else [rule]
    text = " or ".join("null" if item is None else str(item) for item in rules)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
