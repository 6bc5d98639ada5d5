"""The semantics of rights, rules, links and field rights over lists of rows, in at most 200 lines.

It was written from docs/security.md, field-rights.md, domains.md and relations.md, not from the code, so that
test_reference_machine.py compares two readings of these pages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from tests.plugins.security.reference_data import (
    Data,
    arranged,
    bound,
    compares,
    listed,
    masked,
    masks_of,
    summed,
)
from tests.plugins.security.reference_declarations import (
    Call,
    Domain,
    Field,
    Plus,
    Refused,
    Row,
    Step,
    Who,
)

Kinds = set[str]
BATCHES = ("write_many", "bulk")
NEEDS = {name: ("read", name) for name in ("write", "unlink", "aggregate", "export")}
NOT_OF = {True: Kinds(), False: {"NotFound"}}  # of a link by a command, and by its value
NOWHERE = Field("")


def denied(is_allowed: object) -> Kinds:
    return set() if is_allowed else {"AccessDenied"}


class World(Data):
    """Rows of models, and who may do what with them."""

    # -- rights on models and fields ---------------------------------------------------------------

    def roles(self, who: Who) -> Kinds:
        found = {"*", *who.roles}
        while more := {role for of in found for role in self.implied.get(of, ())} - found:
            found |= more
        return found

    def has(self, who: Who, model: str, right: str) -> bool:
        access = self.models[model].access
        if who.is_system or access is None:
            return True
        rows = [grant.rights for grant in access if grant.role in self.roles(who)]
        needed = NEEDS.get(right, (right,))
        return all(any(r["read"] if r[n] is None else r[n] for r in rows) for n in needed)

    def may(self, who: Who, model: str, path: str, right: str) -> bool:
        """Return whether somebody has a right on each field of a path."""
        name, _, rest = path.partition(".")
        one = self.models[model].fields.get(name)
        if who.is_system or one is None:
            return True
        if rest and not self.may(who, one.to, rest, right):
            return False
        if one.kind in ("lines", "back"):  # stored in the other model
            return self.may(who, one.to, one.by, right)
        rights = [declared.roles for declared in self.models[model].rights if declared.name == name]
        needed = [roles.get(right, roles.get("read")) for roles in rights]
        own = [self.roles(who) & {*roles} for roles in needed if roles is not None]
        paths = () if own and one.is_stored else one.paths
        return all(own) and all(self.may(who, model, path, right) for path in paths)

    def lacks(self, who: Who, model: str, operation: str, values: Row) -> Kinds:
        may = [self.may(who, model, name, "write") for name in values]
        may += [self.may(who, model, n, "read") for n, v in values.items() if isinstance(v, Plus)]
        return denied(self.has(who, model, operation) and all(may))

    def asks(self, who: Who, model: str, path: str, right: str) -> Kinds:
        """Return what refuses a condition, an order or a group by a path."""
        found = denied(self.may(who, model, path, right))
        while "." in path:
            name, _, path = path.partition(".")
            model = self.models[model].fields[name].to
            found |= denied(self.has(who, model, "aggregate" if right == "aggregate" else "read"))
        return found

    def conditions(self, who: Who, model: str, domain: Domain) -> Kinds:
        """Return what refuses a domain that somebody asks."""
        if isinstance(domain, bool):
            return set()
        if domain[0] in ("!", "&", "|"):
            return set[str]().union(*(self.conditions(who, model, part) for part in domain[1:]))
        path, operator, value = domain
        one = self.models[model].fields.get(path, NOWHERE)
        is_any = operator in ("any", "not any")
        crosses = is_any or one.kind in ("lines", "back")
        found = self.asks(who, model, f"{path}.id" if crosses else path, "filter")
        return found | (self.conditions(who, one.to, value) if is_any else set())

    # -- rules -------------------------------------------------------------------------------------

    def holds(self, domain: Domain, model: str, row: Row, who: Who | None = None) -> bool:
        """Return whether a row fulfils a domain; other records count as far as ``who`` sees them."""
        if isinstance(domain, bool):
            return domain
        if domain[0] in ("!", "&", "|"):
            parts = [self.holds(part, model, row, who) for part in domain[1:]]
            return not parts[0] if domain[0] == "!" else (all if domain[0] == "&" else any)(parts)
        path, operator, value = domain
        name, _, rest = path.partition(".")
        one = self.models[model].fields.get(name, NOWHERE)
        is_any = operator in ("any", "not any")
        if not rest and not is_any and one.kind not in ("lines", "back"):
            return compares(row[name], operator, value)
        seen = [o for o in self.others(model, row, name) if not who or self.sees(who, one.to, o)]
        if not rest and not is_any:
            return compares([other["id"] for other in seen], operator, value)
        inner = (rest, operator, value) if rest else value
        is_there = any(self.holds(inner, one.to, other, who) for other in seen)
        return is_there != (not rest and operator == "not any")

    def rules(self, who: Who, model: str, operation: str) -> tuple[list[Domain], list[Domain]]:
        """Return the restrictions and the permissions; False for one that is for other roles."""
        both: tuple[list[Domain], list[Domain]] = [], []
        for rule in () if who.is_system else self.models[model].rules:
            restricts = not rule.roles if rule.restrict is None else rule.restrict
            concerns = not rule.roles or bool(self.roles(who) & {*rule.roles})
            if operation in rule.operations and (concerns or not restricts):
                domain = concerns and (bound(who, rule.domain) or False)
                both[0 if restricts else 1].append(domain)
        return both

    def passes(self, who: Who, model: str, operation: str, row: Row) -> bool:
        restrictions, permissions = self.rules(who, model, operation)
        is_permitted = any(self.holds(domain, model, row) for domain in permissions or [True])
        return is_permitted and all(self.holds(domain, model, row) for domain in restrictions)

    def sees(self, who: Who, model: str, row: Row) -> bool:
        return self.has(who, model, "read") and self.passes(who, model, "read", row)

    def sees_all(self, who: Who, model: str) -> bool:
        restrictions, permissions = self.rules(who, model, "read")
        is_open = all(one is True for one in restrictions) and True in (permissions or [True])
        return is_open and self.has(who, model, "read")

    def unseen(self, who: Who, model: str, pk: str) -> Kinds:
        """Return what refuses to do something with a record that somebody does not see."""
        row = self.rows[model].get(pk)
        is_seen = row is not None and self.sees(who, model, row)
        return set() if is_seen else {"NotFound"} | denied(self.has(who, model, "read"))

    # -- changes -----------------------------------------------------------------------------------

    def refusals(self, who: Who, step: Step, new: Kinds) -> Kinds:
        """Return what refuses a change before it is made; ``new`` are created along with it."""
        found = self.lacks(who, step.model, step.operation, step.values)
        row = self.rows[step.model].get(step.id, {})
        if step.operation != "create" and step.id not in new:
            hidden = self.unseen(who, step.model, step.id)
            is_right = hidden or self.passes(who, step.model, step.operation, row)
            found |= hidden | denied(is_right)
        for name, value in step.values.items():
            one = self.models[step.model].fields.get(name, NOWHERE)
            if one.to and (one.exists or not self.sees_all(who, one.to)):
                for pk in {*listed(value)} - new - {*listed(row.get(name))}:
                    hidden = self.unseen(who, one.to, pk)
                    found |= hidden and {"ValidationError", *hidden} - NOT_OF[step.by_command]
        return found

    def changed(self, who: Who, steps: list[Step], found: Kinds, batch: bool = False) -> World:
        """Return the world after a call, or refuse all of it."""
        after, new = copy.deepcopy(self), {step.id for step in steps if step.operation == "create"}
        refused = [self.refusals(who, step, new) for step in steps]
        problems = found.union(*refused)
        there = [s for s, kinds in zip(steps, refused, strict=True) if "NotFound" not in kinds]
        if batch and len(there) < len(steps):  # the others are written, and the error names these
            raise Refused(problems, self.changed(who, there, found | problems & {"AccessDenied"}))
        for step in steps:
            after.apply(step)
        after.recompute()
        for step in steps:
            row = after.rows[step.model].get(step.id)
            problems |= denied(row is None or after.passes(who, step.model, step.operation, row))
            problems |= {"DuplicateKey"} if after.has_duplicates(step.model) else set()
        if problems:
            raise Refused(problems)
        return after

    def call(self, who: Who, call: Call) -> tuple[Any, World]:
        """Return the answer of a call, and the world after it, or raise Refused."""
        model, steps = call.model, [*call.steps]
        found = self.conditions(who, model, call.domain)
        rows = [row for row in self.rows[model].values() if self.sees(who, model, row)]
        rows = [row for row in rows if self.holds(call.domain, model, row, who)]
        if call.kind in ("update", "delete"):
            operation = "write" if call.kind == "update" else "unlink"
            found |= self.lacks(who, model, operation, call.values)
            steps = [Step(operation, model, row["id"], call.values) for row in rows]
            return len(rows), self.changed(who, steps, found)
        if call.kind == "upsert":
            found |= self.asks(who, model, "key", "filter") | self.lacks(who, model, "write", {})
            operation, pk = ("write", rows[0]["id"]) if rows else ("create", call.id)
            return not rows, self.changed(who, [Step(operation, model, pk, call.values)], found)
        if call.kind == "change":
            found |= self.unseen(who, model, call.id) if call.commands else set()
            for step, is_found, link in self.commands(call):
                if link:  # it asks which records the link leads to, so it finds what is seen
                    found |= self.lacks(who, step.model, step.operation, step.values)
                    found |= self.asks(who, *link, "filter")
                    is_found = is_found and not self.unseen(who, step.model, step.id)
                steps += [step] if is_found else []
            for step in [s for s in steps if call.how == "bulk" and s.operation == "unlink"]:
                found |= self.lacks(who, model, "unlink", {})
                if self.unseen(who, model, step.id):
                    steps.remove(step)
            return None, self.changed(who, steps, found, call.how in BATCHES)
        answer = self.read(who, call, rows, found)
        if found | denied(self.has(who, model, call.kind if call.kind in NEEDS else "read")):
            raise Refused({"AccessDenied"})
        return answer, self

    # -- reads -------------------------------------------------------------------------------------

    def view(self, who: Who, model: str, row: Row, names: Iterable[str] = ()) -> Row:
        """Return what a record shows: what may be read, and masks."""
        shown, masks = {"id": row["id"]}, masks_of(self.models[model])
        for name in names or [name for name in self.models[model].fields if name in row]:
            if self.may(who, model, name, "read"):
                shown[name] = row[name]
            elif name in masks:
                shown[name] = masked(row[name], masks[name])
        return shown

    def at(self, who: Who, model: str, row: Row, path: str) -> Any:
        """Return the value at a path to one record, as far as somebody sees it."""
        name, _, rest = path.partition(".")
        if not rest:
            return row[name]
        to = self.models[model].fields[name].to
        return next((o[rest] for o in self.others(model, row, name) if self.sees(who, to, o)), None)

    def read(self, who: Who, call: Call, rows: list[Row], found: Kinds) -> Any:
        """Return what a call that only reads answers, and add what refuses it."""
        model, names, path = call.model, call.names, call.order.lstrip("-")
        if call.kind == "aggregate":
            key, added = names
            found |= self.asks(who, model, key, "aggregate") | self.asks(who, model, key, "read")
            found |= self.asks(who, model, added, "aggregate")
            return summed(rows, [self.at(who, model, row, key) for row in rows], added)
        if path:
            found |= self.asks(who, model, path, "order")
            found |= self.asks(who, model, path, "read") if "." in path else set()
        keys = [self.at(who, model, row, path) if path else None for row in rows]
        rows = arranged(rows, keys, call)
        if call.kind == "count":
            return len(rows)
        if call.kind == "follow":
            name, one = names[0], self.models[model].fields[names[0]]
            found |= denied(not rows or self.may(who, model, name, "read"))
            asks = one.kind in ("lines", "back") or any(listed(row[name]) for row in rows)
            found |= denied(not rows or not asks or self.has(who, one.to, "read"))
            seen = [
                [o for o in self.others(model, r, name) if self.sees(who, one.to, o)] for r in rows
            ]
            return [[self.view(who, one.to, other) for other in others] for others in seen]
        masks = masks_of(self.models[model])
        found |= denied(all(n in masks or self.may(who, model, n, "read") for n in names))
        return [self.view(who, model, row, names) for row in rows]
