"""Rights on single fields: what a model declares, and what follows for a principal.

``field_access`` enforces them on operations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from earnorm import AccessDenied, App, BaseModel, ConfigurationError, Env, FieldWithheld, String
from earnorm.plugin import Bounded, ModelView, Reason, Verdict, Withholding, because, nearest
from earnorm_security.declarations import EVERYBODY
from earnorm_security.inheriting import added_up
from earnorm_security.roles import Roles

FieldRight: TypeAlias = Literal["read", "write", "filter", "order", "aggregate"]
FIELD_RIGHTS: Final[tuple[FieldRight, ...]] = get_args(FieldRight)

Mask: TypeAlias = Callable[[str], str]
Demand: TypeAlias = frozenset[str]
"""Roles of which a principal must have one."""

_NOTHING: Final[frozenset[str]] = frozenset()
_STARS: Final = "****"


class FieldRights:
    """The rights on some fields of a model: ``_field_rights = [FieldRights("salary", read=["hr"])]``.

    Each right is a list of roles, of which a principal needs one; an empty list is nobody but
    ``system``, and ``["*"]`` is everybody. A right that is not given is that of ``read``, and where
    that is not given either, everybody has it.

    Args:
        *fields: The names of the fields.
        read: Who reads them. For anybody else they are left out of all that is read.
        write: Who sets them.
        filter: Who may use them in a condition.
        order: Who may order by them.
        aggregate: Who may aggregate them in a group; to group by them needs the right to read, too.
        mask: Makes the text that those read who may not read the stored one: ``mask=last(4)``.
    """

    __slots__ = ("fields", "given", "mask")

    def __init__(
        self,
        *fields: str,
        read: Collection[str] | None = None,
        write: Collection[str] | None = None,
        filter: Collection[str] | None = None,
        order: Collection[str] | None = None,
        aggregate: Collection[str] | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.fields = fields
        self.given: Mapping[FieldRight, Collection[str] | None] = {
            "read": read,
            "write": write,
            "filter": filter,
            "order": order,
            "aggregate": aggregate,
        }
        self.mask = mask

    def __repr__(self) -> str:
        given = [f"{right}={roles!r}" for right, roles in self.given.items() if roles is not None]
        parts = [*map(repr, self.fields), *given, *(["mask=..."] if self.mask else [])]
        return f"FieldRights({', '.join(parts)})"


def last(count: int) -> Mask:
    """Return a mask that shows the last characters of a text: ``"****3000"``.

    Of a text that is shorter than twice their number it shows none.

    Args:
        count: The number of characters.

    Raises:
        ConfigurationError: It is no number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"last() takes a number of characters above 0, not {count!r}")

    start, least = -count, 2 * count

    def mask(text: str) -> str:
        return _STARS + text[start:] if len(text) >= least else _STARS

    return mask


class FieldView:
    """The rights of a principal on the fields of a model, judged by its roles.

    Attributes:
        lacking: For each right, the names of the fields that the principal does not have it for.
        hidden: The fields that it does not read.
        masks: The mask of each field that it reads masked, by name.
        altered: The fields that are hidden or masked.
        shown: All fields of the model but the hidden ones.
        unseen: The fields that a pipeline, which can do all with what it sees, does not show.
        unusable: The hidden fields for which it has no other right either.
    """

    __slots__ = ("altered", "hidden", "lacking", "masks", "shown", "unseen", "unusable")

    def __init__(
        self,
        fields: frozenset[str],
        lacking: Mapping[FieldRight, frozenset[str]],
        masks: Mapping[str, Mask],
    ) -> None:
        self.lacking, self.masks = lacking, masks
        self.altered = lacking["read"]
        self.hidden = self.altered.difference(masks)
        self.shown = fields - self.hidden
        self.unusable = self.hidden.intersection(*lacking.values())
        self.unseen = _NOTHING.union(
            *(lacking[right] for right in FIELD_RIGHTS if right != "write")
        )


class FieldPolicy:
    """The checked field rights of one model. It tells the core what is withheld (`Withholding`).

    Args:
        models: The model, and the classes below it in its collection, whose records it finds, too.
        demands: For each restricted field and right, the demands on a principal's roles.
        masks: Masks by the field's name.
        roles: Tells the roles of a principal.
    """

    def __init__(
        self,
        models: Sequence[ModelView],
        demands: Mapping[str, Mapping[FieldRight, Sequence[Demand]]],
        masks: Mapping[str, Mask],
        roles: Roles,
    ) -> None:
        fields = {name: field for model in models for name, field in model.fields.items()}
        self.name, self.fields = models[0].name, frozenset(fields)
        self.keys = {fields[name].db_name: name for name in demands if fields[name].stored}
        """The names of the restricted fields by stored key."""
        self.stored = {name: fields[name].db_name for name in demands if fields[name].stored}
        """The stored keys of those that are stored, by name."""
        self._demands, self._masks, self._roles = demands, masks, roles
        self.ready = roles.ready
        """Makes sure that the roles of who acts are known; None where they always are."""
        self._views: Bounded[frozenset[str], FieldView] = Bounded()

    @property
    def restricted(self) -> Collection[str]:
        """The names of the fields with a right that not everybody has."""
        return self._demands.keys()

    def of(self, env: Env) -> FieldView:
        """Return what who is acting may do; ``system`` is not asked about."""
        # A role gives rights and takes none, so what is not known yet only hides more.
        roles = self._roles.at_least(env)
        view = self._views.get(roles)
        if view is None:
            view = self._views[roles] = self._view(roles)
        return view

    def _view(self, roles: frozenset[str]) -> FieldView:
        lacking: dict[FieldRight, frozenset[str]] = {
            right: frozenset(
                name for name, of_field in self._demands.items() if _missing(of_field[right], roles)
            )
            for right in FIELD_RIGHTS
        }
        masks = {name: mask for name, mask in self._masks.items() if name in lacking["read"]}
        return FieldView(self.fields, lacking, masks)

    def hidden(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that are left out of what is read."""
        return self.of(env).hidden

    def masked(self, env: Env) -> frozenset[str]:
        """Return the names of the fields whose values are read masked."""
        return self.of(env).altered

    def fixed(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that may not be set."""
        return self.of(env).lacking["write"]

    def mask(self, documents: Iterable[dict[str, Any]], name: str, mask: Mask) -> None:
        """Put what is read in the place of each stored text, and nothing in that of another value.

        Raises:
            ConfigurationError: The mask failed, or returned no text.
        """
        key = self.stored[name]
        masked: object = ""
        try:
            # 10,000 texts take 2 ms so, and 4 ms with a call for each.
            for document in documents:
                value = document.get(key)
                if type(value) is str:
                    document[key] = masked = mask(value)
                    if type(masked) is not str:
                        break
                elif value is not None:
                    document[key] = None
            else:
                return
        except Exception as error:  # its words may quote the value
            problem = f"raised {type(error).__name__}"
        else:
            problem = f"returned {type(masked).__name__}, not a text"
        raise ConfigurationError(f"{self.name}.{name}: its mask {problem}")

    def refusal(self, env: Env, name: str) -> FieldWithheld:
        """Make the error for reading a hidden field of a record."""
        return FieldWithheld(
            f"{self.name}.{name} was not read, because {self.needed(env, name, 'read')}"
        )

    def denied(self, env: Env, operation: str, name: str, right: FieldRight) -> AccessDenied:
        """Make the error for an operation that uses a field without the right."""
        roles = self._roles.at_least(env)
        error = AccessDenied(
            f"{operation} on model {self.name!r} is denied: {self.needed(env, name, right)}"
        )
        principal = None if env.principal is None else env.principal.id
        reasons = tuple(self._reasons(name, right, roles))
        return because(
            error,
            Verdict(
                self.name,
                operation,
                principal=principal,
                roles=roles,
                allowed=False,
                reasons=reasons,
            ),
        )

    def reasons(self, env: Env) -> Iterator[Reason]:
        """Yield a reason for each field and each right on it that the principal lacks."""
        roles = self._roles.at_least(env)
        for name in self._demands:
            for right in FIELD_RIGHTS:
                yield from self._reasons(name, right, roles)

    def _reasons(self, name: str, right: FieldRight, roles: frozenset[str]) -> Iterator[Reason]:
        """Yield a reason for each demand of a right that these roles do not meet."""
        detail = ""
        if right == "read":
            detail = "it is read masked" if name in self._masks else "it is left out"
        for demand in _missing(self._demands[name][right], roles):
            yield Reason(
                "field",
                name,
                False,
                model=self.name,
                right=right,
                roles=demand,
                detail=detail if demand else f"no role has it; {detail}".removesuffix("; "),
            )

    def demanded(self, name: str) -> Mapping[FieldRight, Sequence[Demand]]:
        """Return the demands of each right on a restricted field."""
        return self._demands[name]

    def is_masked(self, name: str) -> bool:
        """Return whether those who may not read a field see another text in its place."""
        return name in self._masks

    def needed(self, env: Env, name: str, right: FieldRight) -> str:
        """Return in words what the principal lacks to use a field."""
        missing = _missing(self._demands[name][right], self._roles.at_least(env))
        roles = sorted(missing[0]) if missing else []
        holders = " or ".join(map(repr, roles))
        needs = f"needs the role {holders}" if roles else "is nobody's"
        return f"the right to {_VERBS[right]} the field {name!r} {needs}"


_VERBS: Final[Mapping[FieldRight, str]] = {
    "read": "read",
    "write": "set",
    "filter": "filter by",
    "order": "order by",
    "aggregate": "aggregate",
}


class FieldPolicies:
    """The field rights of an App's models.

    Args:
        app: The App.
        added: The setting ``field_rights``.
        roles: Tells the roles of a principal.
    """

    def __init__(self, app: App, added: Mapping[str, Sequence[object]], roles: Roles) -> None:
        self._app, self._added, self._roles = app, added, roles
        self.ready = roles.ready
        self._policies: dict[type[BaseModel], FieldPolicy | None] = {}
        self._declared: dict[type[BaseModel], _Declared] = {}
        self._families: dict[str, frozenset[str]] = {}
        """For each class of a family, the classes whose declarations its policy has."""

    def of(self, model: type[BaseModel]) -> FieldPolicy | None:
        """Return the field rights of a model; None if everybody may do everything with all fields.

        Raises:
            ConfigurationError: ``_field_rights`` is malformed; the message names the model.
        """
        if model not in self._policies:
            self._policies[model] = self._policy(ModelView(model))
        return self._policies[model]

    def withholding(self, model: type[BaseModel]) -> Withholding | None:
        """Return what is withheld of a model's records.

        A class with rights may be defined later in the collection of a family.
        """
        return self.of(model) if ModelView(model).root is None else _OfFamily(self, model)

    def forget(self) -> None:
        """Drop what is kept: the rights of computed fields follow from those of other models."""
        self._policies.clear()
        self._declared.clear()
        self._families.clear()

    def has_grown(self, view: ModelView) -> bool:
        """Return whether a class is new below one whose policy is made already."""
        return view.root is not None and any(
            name in self._families and view.name not in self._families[name] for name in view.names
        )

    def _policy(self, view: ModelView) -> FieldPolicy | None:
        family = self._family(view)
        if view.root is not None:
            self._families[view.name] = frozenset(each.name for each in family)
        names = [
            name
            for each in family
            for name in (*self._own(each).rights, *filter(each.depends_on, each.fields))
        ]
        demands: dict[str, Mapping[FieldRight, Sequence[Demand]]] = {}
        masks: dict[str, Mask] = {}
        for name in dict.fromkeys(names):
            of_field: dict[FieldRight, Sequence[Demand]] = {
                right: self._demanded(view, name, right, set()) for right in FIELD_RIGHTS
            }
            if any(of_field.values()):
                demands[name] = of_field
                mask = self._mask(family, name)
                if mask is not None:
                    masks[name] = mask
        return FieldPolicy(family, demands, masks, self._roles) if demands else None

    def _family(self, view: ModelView) -> Sequence[ModelView]:
        """Return the model and the classes below it in its collection, each in the App's form."""
        if view.root is None:
            return (view,)
        others = (
            ModelView(self._app.extended(model))
            for model in self._app.known_models()
            if ModelView(model).root == view.root
        )
        below = [each for each in others if view.name in each.names and each.name != view.name]
        return (view, *sorted(below, key=lambda each: each.name))

    def _mask(self, family: Sequence[ModelView], name: str) -> Mask | None:
        """Return the mask on which all declarations of a field agree."""
        masks = {
            own.masks.get(name) for own in map(self._own, family) if own.restricts_reading(name)
        }
        return masks.pop() if len(masks) == 1 else None

    def _own(self, view: ModelView) -> _Declared:
        declared = self._declared.get(view.cls)
        if declared is None:
            names = [view.name] if view.root is None else view.names
            added = [item for name in names for item in self._added.get(name, ())]
            declared = self._declared[view.cls] = _Declared(view, added)
        return declared

    def _demanded(
        self, view: ModelView, name: str, right: FieldRight, seen: set[tuple[str, str]]
    ) -> Sequence[Demand]:
        """Return the demands of a field, with those of the fields that it follows from.

        The records of a model are those of the classes below it, too.
        """
        demands: dict[Demand, None] = {}
        for each in self._family(view):
            if name in each.fields:
                demands.update(dict.fromkeys(self._demanded_by(each, name, right, seen)))
        return tuple(demands)

    def _demanded_by(
        self, view: ModelView, name: str, right: FieldRight, seen: set[tuple[str, str]]
    ) -> Sequence[Demand]:
        """Return the demands of a field that one class makes."""
        if (view.name, name) in seen:
            return ()
        seen.add((view.name, name))
        own = self._own(view).demands(name, right)
        if own is not None and view.fields[name].stored:
            return own or ()  # a stored field may say otherwise
        demands = dict.fromkeys(own or ())
        for path in view.depends_on(name):
            for holder, part in self._along(view, path):
                demands.update(dict.fromkeys(self._demanded(holder, part, right, seen)))
        return tuple(demands)

    def _along(self, view: ModelView, path: str) -> Iterator[tuple[ModelView, str]]:
        """Yield the fields on a path, each with its model."""
        name, _, rest = path.partition(".")
        yield view, name
        field: Any = view.fields.get(name)
        if not rest:
            return
        if not getattr(field, "comodel", None):  # an embedded object, or a link to any model
            return
        try:
            target = self._app.view(field.comodel_name)
        except ConfigurationError:
            return  # the App leaves the model out, and the field says so itself
        inverse: object = getattr(field, "inverse", None)
        if isinstance(inverse, str):
            yield target, inverse
        yield from self._along(target, rest)


class _OfFamily:
    """Tells what is withheld of the records of a class that shares its collection."""

    def __init__(self, policies: FieldPolicies, model: type[BaseModel]) -> None:
        self._policies, self._model = policies, model
        self.ready = policies.ready

    def hidden(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that are left out of what is read."""
        policy = self._policies.of(self._model)
        return _NOTHING if policy is None else policy.hidden(env)

    def masked(self, env: Env) -> frozenset[str]:
        """Return the names of the fields whose values are read masked."""
        policy = self._policies.of(self._model)
        return _NOTHING if policy is None else policy.masked(env)

    def fixed(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that may not be set."""
        policy = self._policies.of(self._model)
        return _NOTHING if policy is None else policy.fixed(env)

    def refusal(self, env: Env, name: str) -> FieldWithheld:
        """Make the error for reading a hidden field of a record."""
        policy = self._policies.of(self._model)
        assert policy is not None  # it hides a field
        return policy.refusal(env, name)


class _Declared:
    """The checked declarations of one model, and of its bases."""

    def __init__(self, view: ModelView, added: Sequence[object]) -> None:
        self._view = view
        self._where = f"model {view.name!r}: _field_rights"
        self.rights: dict[str, list[FieldRights]] = {}
        self.masks: dict[str, Mask] = {}
        declared = added_up(view, "_field_rights")
        for item in chain(self._items([] if declared is None else declared), self._items(added)):
            for name in item.fields:
                self._check_field(name, item)
                self.rights.setdefault(name, []).append(item)
        for name, items in self.rights.items():
            shown = {item.mask for item in items if item.given["read"] is not None}
            mask = shown.pop() if len(shown) == 1 else None
            if mask is not None:
                self.masks[name] = mask

    def restricts_reading(self, name: str) -> bool:
        """Return whether a declaration says who reads a field."""
        return any(item.given["read"] is not None for item in self.rights.get(name, ()))

    def demands(self, name: str, right: FieldRight) -> Sequence[Demand] | None:
        """Return the demands that the declarations of a field make; None if they say nothing."""
        given = [
            item.given["read"] if item.given[right] is None else item.given[right]
            for item in self.rights.get(name, ())
        ]
        if all(roles is None for roles in given):
            return None
        sets = (frozenset(roles) for roles in given if roles is not None)
        return tuple(roles for roles in sets if EVERYBODY not in roles)

    def _items(self, declared: object) -> Iterator[FieldRights]:
        if not isinstance(declared, list | tuple):
            raise ConfigurationError(
                f"{self._where} is a list of FieldRights(...), not {type(declared).__name__}"
            )
        for item in cast("Sequence[object]", declared):
            if not isinstance(item, FieldRights):
                raise ConfigurationError(
                    f"{self._where} is a list of FieldRights(...); it contains {type(item).__name__}"
                )
            if not item.fields:
                raise ConfigurationError(f"{self._where}: {item!r} names no field")
            for right, roles in item.given.items():
                if roles is not None and not _are_names(roles):
                    raise ConfigurationError(
                        f"{self._where}: {item!r}: {right} is a list of roles, which are texts"
                    )
            if item.mask is not None and (not callable(item.mask) or item.given["read"] is None):
                raise ConfigurationError(
                    f"{self._where}: {item!r}: mask is a function of a text, and goes with read="
                )
            yield item

    def _check_field(self, name: object, item: FieldRights) -> None:
        view = self._view
        field = view.fields.get(name) if isinstance(name, str) else None
        if field is None:
            hint = nearest(name, view.fields) if isinstance(name, str) else ""
            raise ConfigurationError(f"{self._where}: {item!r}: no field is named {name!r}{hint}")
        problem = self._problem(field, item)
        if problem:
            raise ConfigurationError(f"{self._where}: {field.name!r} {problem}")

    def _problem(self, field: Any, item: FieldRights) -> str:
        """Return why a field cannot have such rights; an empty text if it can."""
        view, name = self._view, field.name
        if name.startswith("_"):
            return "is the library's own, and has no rights"
        if name == view.attribute("_discriminator"):
            return "tells the classes of the collection apart, and is read with every record"
        if name in view.attribute("_inherits", {}).values():
            return "leads to the record whose fields this model has; give rights on those"
        comodel: object = getattr(field, "comodel_name", None) if field.stored else None
        if comodel == view.name and name == view.attribute("_parent_name"):
            return "makes the tree of the model, which is read along it"
        if name == "active" and view.attribute("_soft_delete", False):
            return "decides which records a search leaves out"
        if not field.stored and not field.is_derived:
            return "is stored in the other model; give rights on the field there"
        is_text = isinstance(field, String) and field.stored and not field.secret
        if item.mask is not None and not is_text:
            return "has a mask, and only a stored text can have one"
        reading, filtering = item.given["read"], item.given["filter"] or ()
        is_read_by_all = reading is None or EVERYBODY in reading
        if comodel is not None and not is_read_by_all and not set(filtering) <= set(reading or ()):
            return (
                "is a link, and a condition about its ids tells it: filter= has no role that read= "
                "has not"
            )
        return ""


def _are_names(roles: object) -> bool:
    return (
        isinstance(roles, Collection)
        and not isinstance(roles, str | bytes)
        and all(
            isinstance(role, str) and role.strip() for role in cast("Collection[object]", roles)
        )
    )


def _missing(demands: Sequence[Demand], roles: frozenset[str]) -> list[Demand]:
    return [demand for demand in demands if demand.isdisjoint(roles)]
