"""Tenants: the records of a model belong to one company (shop, customer …) each, by ``_tenant_field``.

Who acts reaches the records of its own tenants. New records get the one in which it works, a record
keeps its tenant, and its links lead to records of the same one. The tenant is the scope of the model's
unique indexes and sequences (``Declaration.scope``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from earnorm import AccessDenied, App, ConfigurationError, Domain, Env, Many2many
from earnorm.domain import Condition
from earnorm.plugin import (
    MISSING,
    Attribute,
    Declaration,
    DocumentBatch,
    DocumentRow,
    Link,
    Links,
    ModelView,
    Operation,
    Stage,
    Step,
    ValueBatch,
    Way,
    nearest,
    pause,
    targets_of,
)
from earnorm_security.asking import has_any
from earnorm_security.declarations import Rule
from earnorm_security.inheriting import added_up, nearest_said, same_of_all
from earnorm_security.residual import together

FIELD: Final = "_tenant_field"
SHARED: Final = "_tenant_shared"
ACROSS: Final = "_across_tenants"
RULE: Final = "_tenant_field"
"""The name of the rule, in messages and reports."""
_RULE_OF_CHANGES: Final = "_tenant_field (changes)"
_REASON: Final = "security: the tenants of records that are linked"
_FILLED: Final = Way.CREATE | Way.CREATE_MANY | Way.BULK
_PAUSE_EVERY: Final = 50


def attributes_of_tenants() -> Iterator[Attribute]:
    """Yield the class attributes about tenants."""
    yield Attribute(FIELD, str, None, _declare)
    yield Attribute(SHARED, bool, False, _need_field)
    yield Attribute(ACROSS, list | tuple, (), _need_field)


def _declare(declaration: Declaration) -> None:
    """Make the tenant the scope of unique indexes and sequences."""
    view = ModelView(declaration.model)
    declaration.scope(declaration.value, across=[tuple(paths) for paths in _across(view)])


def _need_field(declaration: Declaration) -> None:
    if ModelView(declaration.model).attribute("_tenant_field") is None:
        declaration.refuse(f'it is about tenants, so the model says {FIELD} = "company_id", too')
    for entry in _across(ModelView(declaration.model)):
        if not entry or not all(isinstance(path, str) for path in entry):
            declaration.refuse('it lists paths of fields: ["login", ("country", "vat")]')


def _across(view: ModelView) -> list[tuple[str, ...]]:
    """Return the unique indexes and links that go across tenants, each by its paths."""
    declared = added_up(view, ACROSS)
    entries: Sequence[Any] = declared if isinstance(declared, list | tuple) else ()
    return [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in entries]


class Reach:
    """The tenants of who acts, as a model stores them.

    Attributes:
        tenants: The given values by their stored form: the chosen one, or all that are its own.
        current: The stored form of the one in which it works; None if it has to say which.
    """

    __slots__ = ("current", "tenants")

    def __init__(self, tenants: Mapping[Any, Any], current: Any) -> None:
        self.tenants, self.current = tenants, current


class Tenants:
    """The tenants of one model's records.

    The name of the field tells what they are: ``company_id`` is that of the principal's attributes
    ``company_id`` (the one in which it works) and ``company_ids`` (all of its own), and of the
    context's ``company_id`` (the one that was chosen). Models with the same name have the same
    tenants.

    Args:
        app: The App.
        view: The model.

    Raises:
        ConfigurationError: The declarations do not fit the model.
    """

    def __init__(self, app: App, view: ModelView) -> None:
        self.name: str = view.attribute("_tenant_field")
        self.is_shared: bool = view.attribute("_tenant_shared", False)
        self._app, self._view = app, view
        self._field = view.fields[self.name]
        self._key = self._field.db_name
        self._across = {paths[0] for paths in _across(view) if len(paths) == 1}
        self._links: Links | None = None
        self._through = [
            field
            for field in view.fields.values()
            if isinstance(field, Many2many) and field.through is not None
        ]
        """The links by records of a link model that have not been checked yet."""
        self._check()
        self._check_through()

    def _check(self) -> None:
        view, name = self._view, self._view.name
        kinds = self._field.bson_schema().get("bsonType", ())
        if view.has_collation and "string" in ([kinds] if isinstance(kinds, str) else kinds):
            raise ConfigurationError(
                f"{name}.{FIELD}: the collection has a collation, so the database may take two texts in "
                f"{self.name!r} for one tenant; use a link to a model with ids that are no texts"
            )
        for paths in _across(view):
            for path in paths:
                if path.partition(".")[0] not in view.fields:
                    raise ConfigurationError(
                        f"{name}.{ACROSS}: no field {path!r}{nearest(path, view.fields)}"
                    )

    def _check_through(self) -> None:
        """Refuse a link model that belongs to no tenant, between models of the same ones.

        Its records would lead from one tenant to another, and nothing would look at them.

        Raises:
            ConfigurationError: There is one.
        """
        waiting: list[Many2many[Any]] = []
        for field in self._through:
            if field.name in self._across:
                continue
            try:
                to, between = map(self._app.view, (field.comodel_name, field.through_name))
            except ConfigurationError:
                waiting.append(field)  # a model of it is defined later
                continue
            if to.attribute(FIELD) == self.name and between.attribute(FIELD) != self.name:
                raise ConfigurationError(
                    f"{self._view.name}.{field.name}: the records of the link model {between.name!r} lead from one "
                    f"{self.name} to another: it says {FIELD} = {self.name!r}, too, or {self._view.name!r} lists "
                    f"{field.name!r} in {ACROSS}"
                )
        self._through = waiting

    # -- who acts -----------------------------------------------------------------------------

    def reach(self, env: Env) -> Reach:
        """Return the tenants that who acts reaches.

        Raises:
            AccessDenied: The chosen one is none of its own.
            ConfigurationError: An attribute of the principal has something else.
        """
        attributes = {} if env.principal is None else env.principal.attributes
        working, own = attributes.get(self.name), attributes.get(f"{self.name}s")
        tenants: dict[Any, Any] = {}
        for value in (working, *_items(own)):
            if value is not None:
                tenants[self._stored(value, "the principal's attribute")] = value
        chosen = env.context.get(self.name)
        if chosen is not None:
            try:
                stored = self._stored(chosen, "the context's value")
            except ConfigurationError:
                stored = None  # what a client chose is no mistake of the program
            if stored is None or stored not in tenants:
                raise AccessDenied(
                    f"the {self.name} that the context chooses is none of the principal's: "
                    f"{self.name} and {self.name}s of the principal are its own"
                )
            return Reach({stored: tenants[stored]}, stored)
        if working is not None:
            return Reach(tenants, self._stored(working, "the principal's attribute"))
        return Reach(tenants, next(iter(tenants)) if len(tenants) == 1 else None)

    def is_own(self, env: Env, value: object) -> bool:
        """Return whether a value, stored or as text, is a tenant of who acts.

        Raises:
            AccessDenied: The context chooses one that is none of its own.
        """
        try:
            return self._field.operand(value) in self.reach(env).tenants
        except (ValueError, TypeError):
            return False  # it is no value of the field

    def _stored(self, value: Any, what: str) -> Any:
        try:
            stored = self._field.operand(value)
            hash(stored)
        except (ValueError, TypeError):
            raise ConfigurationError(
                f"model {self._view.name!r}: {what} {self.name!r} (or {self.name + 's'!r}) has something that is no "
                f"value of the field"
            ) from None
        return stored

    def rules(self) -> Iterator[Rule]:
        """Yield the restrictions: to the own tenants, and of reading also to what all share."""
        if not self.is_shared:
            yield Rule(RULE, self._own)
            return
        yield Rule(RULE, self._visible, operations=["read"])
        yield Rule(_RULE_OF_CHANGES, self._own, operations=["create", "write", "unlink"])

    def _own(self, env: Env) -> Domain:
        if self._through:
            self._check_through()
        tenants = self.reach(env).tenants
        return Condition(self.name, "in", list(tenants.values())) if tenants else Domain.FALSE

    def _visible(self, env: Env) -> Domain:
        own = self._own(env)
        return own if own is Domain.FALSE else own | Condition(self.name, "=", None)

    # -- steps --------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Yield the steps in the write path of the model."""
        yield Step(
            Stage.DEFAULT, "tenants", self.fill, _FILLED, in_parts=True, fills=self._filled_for
        )
        # The steps of an upsert are not repeated for the record that it creates, so this one is another.
        yield Step(Stage.DEFAULT, "tenants of upserts", self.fill, Way.UPSERT, in_parts=True)
        yield Step(Stage.STAMP, "tenants", self.stamp, on="create", in_parts=True)
        # Before a number is drawn, since what is refused takes none.
        yield Step(Stage.STAMP, "tenants of links", self.agree, ~Way.DERIVED, after=("tenants",))
        yield Step(Stage.CONSTRAIN, "tenants", self.keep, on="write")

    def _filled_for(self, env: Env) -> tuple[str, ...]:
        # The system works in no tenant: it has to be given one.
        return () if env.system else (self.name,)

    def fill(self, batch: ValueBatch) -> None:
        """Give new records the tenant in which who acts works; an upsert by it looks there, too."""
        if batch.env.system or not (batch.is_new or self.name in batch.found_by):
            return
        missing = [row for row in batch.rows if row.values.get(self.name) is None]
        value = self._current(batch.env) if missing else None
        for row in missing:
            if value is None:
                row.refuse(self.name, self._which(), "tenant")
            else:
                row.fill(self.name, value)

    def stamp(self, batch: DocumentBatch) -> None:
        """Refuse documents without a tenant, and fill in those that no value step has seen."""
        missing = [row for row in batch.rows if not row.has(self.name)]
        if not missing or (batch.env.system and self.is_shared):
            return
        value = None if batch.env.system else self._current(batch.env)
        for row in missing:
            if value is not None:
                row.put(self.name, value)
            elif batch.env.system:
                message = f"system() works in no {self.name}, so it says whose record this is"
                row.refuse(self.name, message, "missing")
            else:
                row.refuse(self.name, self._which(), "tenant")

    def _current(self, env: Env) -> Any:
        """Return the tenant for new records; None if who acts has to say which of several.

        Raises:
            AccessDenied: It has none.
        """
        reach = self.reach(env)
        if not reach.tenants:
            who = "nobody acts" if env.principal is None else "who acts has none"
            raise AccessDenied(
                f"create on model {self._view.name!r} is denied: each record belongs to a {self.name}, and {who}: "
                f"give the principal {self.name} or {self.name}s"
            )
        return reach.tenants.get(reach.current)

    def _which(self) -> str:
        return (
            f"who acts has several, and works in none of them: say which, or choose it for a block with "
            f"act_as(..., {self.name}=...)"
        )

    async def keep(self, batch: DocumentBatch) -> None:
        """Refuse a write that gives a record another tenant, unless the system does it.

        Raises:
            AccessDenied: It would.
        """
        if batch.env.system:
            return
        kept: dict[Domain, list[Any]] = {}
        for number, row in enumerate(batch.rows, 1):
            if not number % _PAUSE_EVERY:
                await pause()
            if row.has(self.name):
                value = row.get(self.name)
                if value is MISSING or value is None:
                    raise self._moved()
                kept.setdefault(Condition(self.name, "=", value), []).append(row.pk)
        needed = together(kept)
        if needed is Domain.TRUE:
            return
        op = batch.operation
        if await has_any(op, op.domain & ~needed):
            raise self._moved()
        batch.narrow(needed)

    def _moved(self) -> AccessDenied:
        return AccessDenied(
            f"write on model {self._view.name!r} is denied: a record keeps its {self.name}; only "
            f"system() gives it another one"
        )

    # -- links --------------------------------------------------------------------------------

    async def agree(self, batch: DocumentBatch) -> None:
        """Refuse links to records of another tenant, whoever may read those."""
        op = batch.operation
        if self._links is None:
            self._links = Links(self._app.bind(self._view.cls))
        links = [link for link in self._links.of(op) if self._must_agree(link)]
        if not links or self._is_one(batch.env):
            return
        tenants = await self._tenants_of(op, links)
        rows, needed = batch.rows, dict[int, Domain]()
        for number, link in enumerate(links, 1):
            if not number % _PAUSE_EVERY:
                await pause()
            tenant = tenants.get((link.model, link.pk))
            if tenant is None:
                continue  # all tenants share it; or it does not exist, which is not asked here
            row = rows[link.row]
            given = row.get(self.name) if row.document is not None or row.has(self.name) else None
            if row.document is not None or given not in (None, MISSING):
                if given != tenant:
                    self._refuse(row, link)
                continue
            same: Domain = Condition(self.name, "=", tenant)
            # A link that the record has already may stay.
            same = same | link.condition if link.path else same
            needed[link.row] = needed.get(link.row, Domain.TRUE) & same
        await self._demand(batch, needed, [link for link in links if link[1:3] in tenants])

    async def _tenants_of(self, op: Operation, links: Sequence[Link]) -> dict[tuple[str, Any], Any]:
        """Return the tenants of linked records, by the model and the id; shared ones are left out."""
        wanted: dict[str, dict[Any, None]] = {}
        for link in links:
            wanted.setdefault(link.model, {})[link.pk] = None
        tenants: dict[tuple[str, Any], Any] = {}
        for model, pks in wanted.items():
            key = self._app.view(model).fields[self.name].db_name
            for pk, document in (await targets_of(op, model, pks, [self.name], _REASON)).items():
                if document.get(key) is not None:
                    tenants[model, pk] = document[key]
        return tenants

    async def _demand(
        self, batch: DocumentBatch, needed: Mapping[int, Domain], links: Sequence[Link]
    ) -> None:
        """Demand of written records that their tenant is that of the links, by the row's position."""
        rows, by_domain = batch.rows, dict[Domain, list[Any]]()
        for number, domain in needed.items():
            by_domain.setdefault(domain, []).append(rows[number].pk)
        demand, op = together(by_domain), batch.operation
        if demand is Domain.TRUE:
            return
        if await has_any(op, op.domain & ~demand):
            for domain, pks in by_domain.items():
                if await has_any(op, op.domain & ~together({domain: pks})):
                    for link in links:
                        if needed.get(link.row) == domain:
                            self._refuse(rows[link.row], link)
        batch.narrow(demand)

    def _refuse(self, row: DocumentRow, link: Link) -> None:
        row.refuse(
            link.loc,
            f"leads to a record of another {self.name}; a link that may is listed in {ACROSS}",
            "other_tenant",
        )

    def _is_one(self, env: Env) -> bool:
        """Return whether all that who acts may link and write belongs to one tenant."""
        return not env.system and not self.is_shared and len(self.reach(env).tenants) == 1

    def _must_agree(self, link: Link) -> bool:
        names = ".".join(part for part in link.loc if isinstance(part, str))
        if link.path in self._across or names in self._across:
            return False
        try:
            return bool(self._app.view(link.model).attribute("_tenant_field") == self.name)
        except ConfigurationError:
            return False  # no model of this App


def _items(value: object) -> Iterable[Any]:
    if value is None:
        return ()
    is_many = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    return cast("Iterable[Any]", value) if is_many else (value,)


def tenants_of(app: App, model: ModelView) -> Tenants | None:
    """Return the tenants of a model's records; None if they have none.

    Raises:
        ConfigurationError: The declarations do not fit the model, or the classes of its collection have
            different ones.
    """
    same_of_all(model, FIELD)
    nearest_said(model, SHARED)
    name = model.attribute("_tenant_field")
    if model.root is not None and model.root.name != model.name:
        root = app.view(model.root.name)
        for attribute in (FIELD, SHARED):
            of_root = root.attribute(attribute)
            if (model.attribute(attribute) or None) != (of_root or None):
                raise ConfigurationError(
                    f"{model.name}.{attribute} is {model.attribute(attribute)!r}, and that of {root.name!r}, in whose "
                    f"collection its records are, is {of_root!r}: the root of a family says it for all"
                )
    return None if name is None else Tenants(app, model)
