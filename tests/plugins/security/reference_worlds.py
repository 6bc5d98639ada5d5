"""Generated worlds: models with rules and rights of every kind, data, who acts, and calls; and the same made of EarnORM.

``worlds()`` draws declarations, ``calls()`` a call that suits them; ``Stage`` makes models of the declarations in an App on
the real server, and does the calls there.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from bson import ObjectId
from hypothesis import strategies as st

from earnorm import (
    AccessDenied,
    App,
    BaseModel,
    Command,
    DuplicateKey,
    FieldWithheld,
    Inc,
    Int,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    Principal,
    String,
    Sum,
    ValidationError,
    act_as,
    depends,
    forget,
    system,
)
from earnorm_security import (
    Access,
    FieldRights,
    Role,
    SecurityPlugin,
    SecuritySettings,
    context,
    last,
    user,
)
from earnorm_security import Rule as DeclaredRule
from tests.plugins.security.reference_declarations import (
    Call,
    Domain,
    Field,
    FieldRight,
    Grant,
    Model,
    Plus,
    Refused,
    Row,
    Rule,
    Step,
    Variable,
    Who,
)

ROLES: Final = ("clerk", "lead", "boss")
NAMES: Final = ("x", "y", "z")
TEXTS: Final = ("p", "q", "u0", "u1", "long text")
RIGHTS: Final = ("read", "write", "create", "unlink")
OWN_VALUES: Final = ("key", "a", "b", "t", "link", "links")
ROWS: Final = 4
"""The rows that each model begins with."""


def pk_of(model: str, number: int) -> str:
    return f"{NAMES.index(model) + 10:04x}{number:020x}"


# -- declarations -----------------------------------------------------------------------------------


@st.composite
def worlds(
    draw: Callable[..., Any], simple: bool = True
) -> tuple[dict[str, Model], dict[str, list[str]], Any, list[Who]]:
    """Draw models, implied roles, rows and principals; some models with simple rules alone."""
    names = NAMES[: draw(st.integers(2, 3))]
    fields = {name: draw(plain_fields(names)) for name in names}
    for name, (other, theirs) in itertools.product(names, list(fields.items())):
        if theirs["link"].to == name:
            fields[name].setdefault("lines", Field("lines", other, "link"))
        if theirs["links"].to == name:
            fields[name].setdefault("back", Field("back", other, "links"))
    for name in [name for name in names if draw(st.booleans())]:
        paths = [("a",), ("a", "b"), ("a", "link.b")] + [("lines.a",)] * ("lines" in fields[name])
        fields[name]["total"] = Field("sum", paths=draw(st.sampled_from(paths)))
        fields[name]["label"] = Field("related", paths=("link.t",))
        fields[name]["live"] = Field("sum", paths=("a",), is_stored=False)
    models = {name: Model(fields[name]) for name in names}
    for name in names:
        if simple and draw(
            st.booleans()
        ):  # only rules that most records fulfil, so that they decide
            few = st.lists(mild_rules(models, name), min_size=1, max_size=2)
            models[name] = Model(fields[name], rules=draw(few))
            continue
        models[name] = Model(
            fields[name],
            draw(st.none() | st.lists(grants(), min_size=1, max_size=4)),
            draw(st.lists(rules(models, name), max_size=3)),
            draw(st.lists(field_rights(fields[name]), max_size=3, unique_by=lambda r: r.name)),
        )
    implied = draw(st.sampled_from([{}, {"boss": ["lead"]}, {"boss": ["lead"], "lead": ["clerk"]}]))
    rows = {name: {} for name in names}
    for name in names:
        for number in range(draw(st.integers(1, ROWS))):
            row = draw(st.fixed_dictionaries(values(models, name)))
            pk = pk_of(name, number)
            rows[name][pk] = {"id": pk, **row, "key": f"k{number}"}
    return models, implied, rows, draw(st.lists(principals, min_size=2, max_size=3))


@st.composite
def plain_fields(draw: Callable[..., Any], names: tuple[str, ...]) -> dict[str, Field]:
    to = st.sampled_from(names)
    on_delete = draw(st.sampled_from([None, None, "set_null", "cascade"]))
    return {
        "key": Field("text"),
        "a": Field("int"),
        "b": Field("int"),
        "t": Field("text"),
        "link": Field("one", draw(to), exists=draw(st.booleans()), on_delete=on_delete),
        "links": Field("many", draw(to), exists=draw(st.booleans())),
    }


def grants() -> st.SearchStrategy[Grant]:
    yes = st.sampled_from([True, True, True, True, True, False])
    rights: dict[str, Any] = dict.fromkeys(RIGHTS, yes)
    rights |= {name: st.sampled_from([None, None, True, False]) for name in ("aggregate", "export")}
    return st.builds(Grant, st.sampled_from(["*", "*", *ROLES]), st.fixed_dictionaries(rights))


def role_lists(least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(ROLES), min_size=least, max_size=2, unique=True).map(tuple)


@st.composite
def mild(draw: Callable[..., Any], models: dict[str, Model], name: str) -> Domain:
    """Draw a condition that most records fulfil, so that changes are allowed, and take records out of it."""
    fields, number = models[name].fields, draw(st.integers(2, 4))
    text = draw(st.sampled_from(TEXTS))
    return draw(
        st.sampled_from(
            [
                ("b", "<", number),
                ("a", "not in", [number]),
                ("t", "!=", text),
                ("!", ("link.t", "=", text)),
                ("links", "not any", ("b", "=", number)),
                *[("!", ("total", ">=", 2 * number))] * ("total" in fields),
                *[("label", "!=", text)] * ("label" in fields),
                *[("lines", "not any", ("a", "=", number))] * ("lines" in fields),
            ]
        )
    )


def mild_rules(models: dict[str, Model], name: str) -> st.SearchStrategy[Rule]:
    operations = st.sampled_from([RIGHTS, ("write",), ("write", "create"), ("read",)])
    return st.builds(Rule, mild(models, name), operations=operations)


@st.composite
def rules(draw: Callable[..., Any], models: dict[str, Model], name: str) -> Rule:
    rare = domains(models, name, in_rule=True)
    domain = draw(st.one_of(st.just(True), *[mild(models, name)] * 3, rare, rare))
    operations = draw(
        st.sampled_from(
            [RIGHTS, RIGHTS, ("read",), ("write",), ("write", "create"), ("create",), ("unlink",)]
        )
    )
    return Rule(
        domain,
        draw(st.just(()) | role_lists()),
        operations,
        draw(st.sampled_from([None, None, True, False])),
        draw(st.sampled_from(["domain", "domain", "function"])),
        draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def field_rights(draw: Callable[..., Any], fields: dict[str, Field]) -> FieldRight:
    name = draw(st.sampled_from([n for n in fields if fields[n].kind not in ("lines", "back")]))
    needs = st.just(("*",)) | role_lists(0)
    given = ["read", "write"]
    if fields[name].kind not in ("one", "many"):
        given += ["filter", "order", "aggregate"]
    roles = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(given, needs)))
    if fields[name].paths:
        roles.pop("write", None)
    may_mask = fields[name].kind == "text" and "read" in roles and "*" not in roles["read"]
    return FieldRight(name, roles or {"read": ()}, draw(st.sampled_from([0, 2])) if may_mask else 0)


principals: Final = st.builds(
    Who,
    st.sampled_from(["u0", "u1", "u1"]),
    role_lists(0),
    st.fixed_dictionaries({}, optional={"size": st.integers(0, 3), "words": st.just(["p", "u1"])}),
    st.fixed_dictionaries({}, optional={"size": st.integers(0, 3)}),
)
ACTING: Final = (Who(), Who("u0", is_system=True))

# -- domains, values and calls ---------------------------------------------------------------------

NUMBERS: Final = st.integers(0, 4)


def ids(models: dict[str, Model], name: str) -> st.SearchStrategy[str]:
    return st.integers(0, ROWS).map(lambda number: pk_of(name, number))


def paths_of(models: dict[str, Model], name: str, kind: str) -> list[str]:
    """Return the stored fields of a model and of those that it links to, by what can be asked of them."""
    kinds = {"int": ("int", "sum"), "text": ("text", "related")}[kind]
    fields = models[name].fields
    own = [n for n, one in fields.items() if one.kind in kinds and one.is_stored]
    return own + [
        f"{n}.{theirs}"
        for n, one in fields.items()
        if one.to
        for theirs in (("a", "total") if kind == "int" else ("t",))
        if theirs in models[one.to].fields
    ]


@st.composite
def conditions(
    draw: Callable[..., Any], models: dict[str, Model], name: str, in_rule: bool, depth: int
) -> Domain:
    kind = draw(st.sampled_from(["int", "int", "text", "text", "relation", "relation"]))
    if kind == "int":
        path = draw(st.sampled_from(paths_of(models, name, "int")))
        operator = draw(st.sampled_from(["=", "!=", "<", ">=", "in", "not in"]))
        if operator in ("in", "not in"):
            return path, operator, draw(st.lists(NUMBERS, min_size=1, max_size=2))
        if in_rule and draw(st.booleans()):
            return path, operator, Variable(draw(st.sampled_from(["user", "context"])), "size")
        return path, operator, draw(NUMBERS | st.none() if operator in ("=", "!=") else NUMBERS)
    if kind == "text":
        path = draw(st.sampled_from(paths_of(models, name, "text")))
        operator = draw(st.sampled_from(["=", "!=", "in"]))
        if operator == "in":
            some = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2)
            return (
                path,
                operator,
                Variable("user", "words") if in_rule and draw(st.booleans()) else draw(some),
            )
        if in_rule and draw(st.booleans()):
            return path, operator, Variable("user", "id")
        return path, operator, draw(st.sampled_from([*TEXTS, None]))
    relation = draw(st.sampled_from([n for n, one in models[name].fields.items() if one.to]))
    one = models[name].fields[relation]
    if depth and draw(st.booleans()):
        operator = draw(st.sampled_from(["any", "not any"]))
        return relation, operator, draw(domains(models, one.to, in_rule, depth - 1))
    operator = draw(st.sampled_from(["=", "!=", "in", "not in"]))
    pk = ids(models, one.to)
    if operator in ("in", "not in"):
        return relation, operator, draw(st.lists(pk, min_size=1, max_size=2))
    return relation, operator, draw(pk | (st.none() if one.kind == "one" else st.just([])))


def domains(
    models: dict[str, Model], name: str, in_rule: bool = False, depth: int = 1
) -> st.SearchStrategy[Domain]:
    one = conditions(models, name, in_rule, depth)
    return (
        one
        | one
        | one.map(lambda inner: ("!", inner))
        | st.tuples(st.sampled_from(["&", "|"]), one, one)
        | st.tuples(st.just("!"), st.tuples(st.sampled_from(["&", "|"]), one, one))
    )


def values(models: dict[str, Model], name: str) -> dict[str, st.SearchStrategy[Any]]:
    fields = models[name].fields
    return {
        "key": st.sampled_from([f"k{n}" for n in range(9)]),
        "a": NUMBERS | st.none(),
        "b": NUMBERS,
        "t": st.sampled_from([*TEXTS, None]),
        "link": st.none() | ids(models, fields["link"].to),
        "links": st.lists(ids(models, fields["links"].to), max_size=2, unique=True),
    }


def some_values(
    models: dict[str, Model], name: str, *without: str, is_new: bool = False
) -> st.SearchStrategy[Row]:
    given = {n: s for n, s in values(models, name).items() if n not in without}
    if not is_new:
        given["b"] |= st.builds(Plus, st.integers(1, 2))
    chosen = st.lists(st.sampled_from([*given]), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({n: given[n] for n in names}))


def ids_for(world: Any, name: str, who: Who) -> list[str]:
    """Return the ids of a model's records; of those that somebody may change, four times."""
    rows = world.rows[name]
    seen = [pk for pk, row in rows.items() if world.sees(who, name, row)]
    right = [pk for pk in seen if world.passes(who, name, "write", rows[pk])]
    return [*right * 4, *rows, pk_of(name, 0)]


@st.composite
def calls(
    draw: Callable[..., Any], world: Any, kind: str, new_ids: Iterator[int], who: Who
) -> Call:
    """Draw a call of a kind, mostly about what somebody sees."""
    models = world.models
    name = draw(st.sampled_from([*models]))
    fields = models[name].fields
    domain = draw(st.just(True) | domains(models, name))
    there = st.sampled_from(ids_for(world, name, who))
    read = [n for n, one in fields.items() if one.kind not in ("lines", "back")]
    if kind in ("read", "export"):
        paths = paths_of(models, name, "int") + paths_of(models, name, "text")
        paths = [p for p in paths if "." not in p or fields[p.partition(".")[0]].kind == "one"]
        order = draw(st.sampled_from(["", *paths, *(f"-{p}" for p in paths)]))
        names = draw(
            st.just(())
            | st.lists(st.sampled_from(read), min_size=1, max_size=2, unique=True).map(tuple)
        )
        limit, offset = draw(st.sampled_from([(None, 0), (None, 0), (2, 0), (2, 1)]))
        if kind == "export":
            return Call(kind, kind, name, domain, order, limit, offset, names)
        how = draw(st.sampled_from(["search", "stream", "first", "get", "to_dict", "page", "read"]))
        if how == "get":
            return Call(kind, how, name, ("id", "=", draw(there)))
        if how == "first":
            limit, offset = 1, 0
        if how == "page":
            limit, offset = 2, draw(st.sampled_from([0, 2]))
        return Call(kind, how, name, domain, order, limit, offset, names)
    if kind == "count":
        return Call(kind, draw(st.sampled_from(["count", "exists"])), name, domain)
    if kind == "aggregate":
        keys = [n for n in ("a", "t", "total", "label") if n in fields]
        key = draw(st.sampled_from([*keys, "link.a", "link.t"]))
        added = draw(st.sampled_from([n for n in ("a", "total") if n in fields]))
        return Call(kind, kind, name, domain, names=(key, added))
    if kind == "follow":
        relation = draw(st.sampled_from([n for n, one in fields.items() if one.to]))
        return Call(
            kind, draw(st.sampled_from(["prefetch", "await"])), name, domain, names=(relation,)
        )
    if kind == "update":
        return Call(kind, kind, name, domain, values=draw(some_values(models, name, "key")))
    if kind == "delete":
        return Call(kind, kind, name, domain)
    if kind == "upsert":
        key = draw(st.sampled_from([f"k{n}" for n in range(6)]))
        more = draw(some_values(models, name, "key"))
        return Call(
            kind,
            kind,
            name,
            ("key", "=", key),
            id=pk_of(name, next(new_ids)),
            values={"key": key, **more},
        )
    if kind == "command":
        relation = draw(
            st.sampled_from([n for n, one in fields.items() if one.kind in ("many", "lines")])
        )
        to = fields[relation].to
        by = (fields[relation].by,) if fields[relation].by else ()
        command = draw(st.sampled_from(["create", "link", "unlink", "update", "delete"]))
        if command == "delete" and not by:
            command = "unlink"
        if command == "update" and not by:
            command = "set"
        other = pk_of(to, next(new_ids)) if command == "create" else draw(ids(models, to))
        is_new = command == "create"
        more = (
            draw(some_values(models, to, "key", *by, is_new=is_new))
            if command in ("create", "update")
            else {}
        )
        return Call(
            "change",
            "command",
            name,
            names=(relation,),
            id=draw(there),
            commands=((command, other, more),),
        )
    return Call("change", kind, name, steps=tuple(draw(steps(world, kind, name, new_ids, who))))


@st.composite
def steps(
    draw: Callable[..., Any], world: Any, kind: str, name: str, new_ids: Iterator[int], who: Who
) -> list[Step]:
    models = world.models

    def created(model: str, *without: str) -> Step:
        if kind in ("create_many", "bulk"):  # a duplicate key leaves what was written before
            without = ("key", *without)
        key = {"key": f"n{next(new_ids)}"} if draw(st.booleans()) else {}
        given = draw(some_values(models, model, *without, is_new=True))
        return Step("create", model, pk_of(model, next(new_ids)), {**key, **given})

    if kind in ("create", "create_many"):
        if draw(st.booleans()):
            return [created(name)]
        return [
            created(name, "key"),
            created(name, "key"),
        ]  # a duplicate key leaves what was written before
    if kind == "nested":
        parent = created(name)
        lines = models[name].fields.get("lines")
        if lines is None:
            return [parent]
        children = [created(lines.to, lines.by) for _ in range(draw(st.integers(1, 2)))]
        return [parent] + [
            Step(c.operation, c.model, c.id, {**c.values, lines.by: parent.id}) for c in children
        ]
    there = st.sampled_from(ids_for(world, name, who))
    if kind == "unlink":
        return [Step("unlink", name, draw(there))]
    if kind in ("write_many", "bulk"):
        chosen = draw(st.lists(there, min_size=1, max_size=2, unique=True))
        result = [Step("write", name, pk, draw(some_values(models, name, "key"))) for pk in chosen]
        if kind == "bulk":
            result += [created(name)] if draw(st.booleans()) else []
            gone = draw(there)
            result += (
                [Step("unlink", name, gone)] if gone not in chosen and draw(st.booleans()) else []
            )
        return result
    return [Step("write", name, draw(there), draw(some_values(models, name)))]


READS: Final = ("read", "count", "export", "aggregate", "follow")
CHANGES: Final = (
    *("create", "nested", "create_many", "write", "save", "update", "unlink", "delete"),
    *("upsert", "command", "write_many", "bulk"),
)

# -- the same, made of EarnORM ----------------------------------------------------------------------


def odoo(domain: Domain, variable: Callable[[Variable], Any]) -> list[Any]:
    """Return a domain in Odoo's notation."""
    if domain is True or domain is False:
        return [(1, "=", 1)] if domain else [(0, "=", 1)]
    if domain[0] in ("!", "&", "|"):
        return [domain[0], *itertools.chain(*(odoo(part, variable) for part in domain[1:]))]
    path, operator, value = domain
    if isinstance(value, Variable):
        value = variable(value)
    elif operator in ("any", "not any"):
        value = odoo(value, variable)
    return [(path, operator, value)]


def no_variables(variable: Variable) -> Any:
    raise AssertionError(variable)


def declared(variable: Variable) -> Any:
    return getattr(user if variable.of == "user" else context, variable.name)


class _Missing(Exception):
    pass


def by_function(domain: Domain) -> Callable[[Any], Any]:
    """Return a rule's function; like a domain with variables, it opens nothing where one is missing."""

    def domain_of(env: Any) -> Any:
        def value(variable: Variable) -> Any:
            own = env.principal
            attributes = {**own.attributes, "id": own.id} if own else {}
            found = (attributes if variable.of == "user" else env.context).get(variable.name)
            if found is None:
                raise _Missing
            return found

        try:
            return odoo(domain, value)
        except _Missing:
            return [(0, "=", 1)]

    return domain_of


def formula(one: Field) -> Callable[[Any], Any]:
    def reach(record: Any, path: str) -> list[Any]:
        name, _, rest = path.partition(".")
        value = getattr(record, name)
        if not rest:
            return [] if value is None else [value]
        others = value if name == "lines" else [value] if value else []
        return [v for other in others for v in reach(other, rest)]

    def compute(self: Any) -> Any:
        found = [v for path in one.paths for v in reach(self, path)]
        return sum(found) if one.kind == "sum" else (found or [None])[0]

    return depends(*one.paths)(compute)


REFUSALS: Final = (AccessDenied, NotFound, DuplicateKey)
_numbers: Final = itertools.count()


class Stage:
    """The models of a world in an App; ``apps`` lists what it takes to open one."""

    def __init__(
        self, models: dict[str, Model], implied: dict[str, list[str]], tell: str = ""
    ) -> None:
        self.declared, self.implied = models, implied
        self.prefix = f"refmachine.{next(_numbers)}{tell}"
        self.models = {name: self._made(name, model) for name, model in models.items()}

    def app(
        self, client: Any, database: str, plugins: tuple[object, ...] = (), **settings: Any
    ) -> App:
        roles = [Role(role, implies=others) for role, others in self.implied.items()]
        security = SecurityPlugin(SecuritySettings(roles=roles))
        return App(
            client=client,
            database=database,
            plugins=[security, *plugins],
            recompute_interval=None,
            **settings,
        )

    def forget(self) -> None:
        forget(*self.models.values())

    def _made(self, name: str, model: Model) -> type[BaseModel]:
        body: dict[str, Any] = {"__module__": __name__, "_name": f"{self.prefix}.{name}"}
        for key, one in model.fields.items():
            body[key] = self._field(key, one)
            if one.kind == "sum":
                body[f"_{key}"] = formula(one)
        if model.access is not None:
            body["_access"] = [Access(grant.role, **grant.rights) for grant in model.access]
        if model.rules:
            body["_rules"] = [
                DeclaredRule(
                    f"rule {number}",
                    by_function(r.domain) if r.form == "function" else odoo(r.domain, declared),
                    roles=r.roles,
                    operations=r.operations,
                    restrict=r.restrict,
                    strict=r.strict,
                )
                for number, r in enumerate(model.rules)
            ]
        if model.rights:
            body["_field_rights"] = [
                FieldRights(
                    right.name,
                    **{n: list(roles) for n, roles in right.roles.items()},
                    **({"mask": last(right.mask)} if right.mask else {}),
                )
                for right in model.rights
            ]
        return type(name.upper(), (BaseModel,), body)

    def _field(self, key: str, one: Field) -> Any:
        to = f"{self.prefix}.{one.to}"
        if one.kind == "one":
            return Many2one(
                to, exists=one.exists, **({"on_delete": one.on_delete} if one.on_delete else {})
            )
        if one.kind == "many":
            return Many2many(to, exists=one.exists)
        if one.kind == "lines":
            return One2many(to, one.by)
        if one.kind == "back":
            return Many2many(to, inverse=one.by)
        if one.kind == "related":
            return String(related=one.paths[0], store=True, recompute="now")
        if one.kind == "sum":
            more: dict[str, Any] = {"store": True, "recompute": "now"} if one.is_stored else {}
            return Int(compute=f"_{key}", **more)
        return String(unique=True) if key == "key" else Int() if one.kind == "int" else String()

    # -- data --------------------------------------------------------------------------------------

    def collection(self, database: Any, name: str) -> Any:
        return database[self.models[name]._collection]

    async def fill(self, database: Any, rows: dict[str, dict[str, Row]]) -> None:
        for name, some in rows.items():
            documents = [self._document(name, row) for row in some.values()]
            await self.collection(database, name).delete_many({})
            if documents:
                await self.collection(database, name).insert_many(documents)

    def _document(self, name: str, row: Row) -> Row:
        fields = self.declared[name].fields
        stored: Row = {"_id": ObjectId(row["id"])}
        for key, one in fields.items():
            value = row.get(key)
            if one.is_stored and (value is not None or one.paths):
                stored[key] = ObjectId(value) if one.kind == "one" else value
                if one.kind == "many":
                    stored[key] = [ObjectId(pk) for pk in value]
        return stored

    async def stored(self, database: Any) -> dict[str, dict[str, Row]]:
        found: dict[str, dict[str, Row]] = {}
        for name, model in self.declared.items():
            documents = await self.collection(database, name).find({}).to_list()
            names = stored_names(model)
            rows = [{"id": str(d["_id"]), **{k: plain(d.get(k)) for k in names}} for d in documents]
            for row in rows:
                row["links"] = row["links"] or []
            found[name] = {row["id"]: row for row in rows}
        return found

    # -- calls -------------------------------------------------------------------------------------

    async def answer(self, who: Who, call: Call) -> Any:
        """Do a call, and return what the reference answers, or raise Refused."""
        with acting(who):
            try:
                return await self._done(call)
            except FieldWithheld as error:
                raise Refused({"AccessDenied"}, str(error)) from error
            except REFUSALS as error:
                kinds = [kind for kind in REFUSALS if isinstance(error, kind)]
                raise Refused({kinds[0].__name__}, str(error)) from error
            except ValidationError as error:
                if {problem["type"] for problem in error.errors()} != {"no_such_record"}:
                    raise
                raise Refused({"ValidationError"}, str(error)) from error

    async def _done(self, call: Call) -> Any:
        model = self.models[call.model]
        query = model.search(odoo(call.domain, no_variables))
        if call.kind == "read":
            return await self._read(call, query)
        if call.kind == "count":
            return await (query.count() if call.how == "count" else query.exists())
        if call.kind == "export":
            rows = (await self._window(call, query).to_arrow()).to_pylist()
            return [self._shown(call, row) for row in rows]
        if call.kind == "aggregate":
            key, added = call.names
            rows = await query.group(key, of_all=Sum(added))
            return {plain(row[key]): row["of_all"] for row in rows}
        if call.kind == "follow":
            return await self._followed(call, query.order("id"))
        if call.kind == "update":
            return await query.update(stored_values(call.values))
        if call.kind == "delete":
            return await query.delete()
        if call.kind == "upsert":
            on_id = {"_id": ObjectId(call.id)}
            _, is_new = await model.upsert(stored_values(call.values), on="key", new=on_id)
            return is_new
        return await self._changed(call, model)

    def _window(self, call: Call, query: Any) -> Any:
        query = query.order(f"{call.order},id" if call.order else "id")
        if call.names:
            query = query.only(*call.names)
        if call.limit is not None:
            query = query.limit(call.limit)
        return query.offset(call.offset) if call.offset else query

    async def _read(self, call: Call, query: Any) -> Any:
        if call.how == "get":
            record = await self.models[call.model].get(call.domain[2])
            return [self._shown(call, record.to_dict())]
        if call.how == "page":
            query = self._window(replace(call, limit=None, offset=0), query)
            return [
                self._shown(call, r)
                for r in (await query.page(call.offset // 2 + 1, size=2)).records.to_dict()
            ]
        query = self._window(call, query)
        if call.how == "stream":
            found = [record.to_dict() async for record in query]
        elif call.how == "first":
            record = await query.first()
            found = [] if record is None else [record.to_dict()]
        elif call.how == "to_dict":
            found = await query.to_dict()
        elif call.how == "read":
            found = await (await query).read([*call.names] or None)
        else:
            found = (await query).to_dict()
        return [self._shown(call, row) for row in found]

    def _shown(self, call: Call, row: Row) -> Row:
        wanted = ("id", *call.names) if call.names and call.kind != "follow" else [*row]
        shown = {n: plain(v) for n, v in row.items() if n in wanted and n not in ("lines", "back")}
        return {n: [] if n == "links" and v is None else v for n, v in shown.items()}

    async def _followed(self, call: Call, query: Any) -> Any:
        [name] = call.names
        kind = self.declared[call.model].fields[name].kind
        records = await (query.prefetch(name) if call.how == "prefetch" else query)
        found = []
        for record in records:
            value = getattr(record, name)
            if call.how == "await" and value is not None:
                try:
                    value = await value
                except NotFound:
                    value = None
            if kind == "one":
                others = [value] if value is not None and value.exists() else []
            else:
                others = [*value]
            shown = [self._shown(call, other.to_dict()) for other in others]
            found.append(shown if kind == "many" else sorted(shown, key=lambda row: row["id"]))
        return found

    async def _changed(self, call: Call, model: Any) -> None:
        steps = call.steps
        if call.how == "command":
            commands = [self._command(*one) for one in call.commands]
            await model.browse([call.id])[0].write({call.names[0]: commands})
        elif call.how in ("create", "create_many"):
            rows = [new_values(step) for step in steps]
            if call.how == "create_many":
                await model.create_many(rows)
            else:
                await model.create(rows if len(rows) > 1 else rows[0])
        elif call.how == "nested":
            lines = [new_values(step) for step in steps[1:]]
            for line in lines:
                line.pop("link")
            parent = new_values(steps[0])
            await model.create({**parent, "lines": lines} if lines else parent)
        elif call.how == "unlink":
            if not await model.browse([steps[0].id])[0].unlink():
                raise NotFound("nothing was deleted")
        elif call.how == "write_many":
            await model.write_many(
                {ObjectId(step.id): stored_values(step.values) for step in steps}
            )
        elif call.how == "bulk":
            async with model.bulk() as bulk:
                for step in steps:
                    if step.operation == "create":
                        bulk.create(new_values(step))
                    elif step.operation == "write":
                        bulk.write(model.browse([step.id])[0], stored_values(step.values))
                    else:
                        bulk.unlink(model.browse([step.id])[0])
        elif call.how == "save":
            await model.browse([steps[0].id])[0].save(stored_values(steps[0].values))
        else:
            await model.browse([steps[0].id])[0].write(stored_values(steps[0].values))

    def _command(self, command: str, other: str, values: Row) -> Any:
        pk = ObjectId(other)
        if command == "create":
            return Command.create({"_id": pk, **stored_values(values)})
        if command == "update":
            return Command.update(pk, stored_values(values))
        if command == "set":
            return Command.set([pk])
        return {"link": Command.link, "unlink": Command.unlink, "delete": Command.delete}[command](
            pk
        )


@contextlib.contextmanager
def acting(who: Who) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if who.id is not None:
            principal = Principal(who.id, list(who.roles), dict(who.attributes))
            stack.enter_context(act_as(principal, **who.context))
        if who.is_system:
            stack.enter_context(system(reason="the machine"))
        yield


def stored_names(model: Model) -> list[str]:
    return [
        k for k, one in model.fields.items() if one.is_stored and one.kind not in ("lines", "back")
    ]


def stored_values(values: Row) -> Row:
    found = {n: Inc(v.amount) if isinstance(v, Plus) else copy.copy(v) for n, v in values.items()}
    if found.get("link") is not None:
        found["link"] = ObjectId(found["link"])
    if "links" in found:
        found["links"] = [ObjectId(pk) for pk in found["links"]]
    return found


def new_values(step: Step) -> Row:
    return {"_id": ObjectId(step.id), **stored_values(step.values)}


def plain(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    return [plain(one) for one in value] if isinstance(value, list) else value
