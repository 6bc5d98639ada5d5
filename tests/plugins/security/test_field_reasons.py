"""Why a field is left out, masked or refused: ``why()``, the report, ``access_denied`` and the trail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from earnorm import AccessDenied, App, Principal, Sum, act_as, depends, hookimpl, models, system
from earnorm.fields import Int, Many2one, String
from earnorm.plugin import Operation, Verdict, name_of
from earnorm_audit import AuditDenial, AuditLog, AuditPlugin
from earnorm_security import Access, FieldRights, Role, Security, last, why
from earnorm_security.command import security_command


class Post(models.BaseModel):
    _name = "whyfield.post"
    _access = [Access("*", read=True, write=True, create=True)]
    _field_rights = [
        FieldRights("pay", read=["hr"], aggregate=["hr", "analyst"]),
        FieldRights("iban", read=["hr"], mask=last(4)),
        FieldRights("grade", write=["hr"]),
        FieldRights("closed", read=[]),
    ]
    name = String(required=True)
    pay = Int(default=1)
    iban = String()
    grade = Int(default=1)
    closed = Int(default=1)
    twice = Int(compute="_twice", store=True)

    @depends("pay")
    def _twice(self) -> int:
        return 2 * self.pay


class Chair(models.BaseModel):
    _name = "whyfield.chair"
    post_id = Many2one(Post)


EVE = Principal("eve", ["clerk"])
HANA = Principal("hana", ["hr"])
Told = list[tuple[str, str, str, tuple[tuple[str, str, tuple[str, ...]], ...]]]


class Listener:
    """Notes what the hook is told: model, operation, who, and each reason's field, right and roles."""

    api = 1
    name = "listener"

    def __init__(self) -> None:
        self.told: Told = []

    @hookimpl
    def access_denied(self, op: Operation, error: AccessDenied, why: Verdict | None) -> None:
        assert why is not None
        reasons = tuple((r.name, r.right, tuple(sorted(r.roles))) for r in why.refusing)
        who = "" if op.env.principal is None else op.env.principal.id
        self.told.append((name_of(op.model), op.name, who, reasons))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def app(opened: Any, listener: Listener) -> AsyncIterator[App]:
    async with opened(plugins=(listener, AuditPlugin())) as app:
        with system(reason="fill"):
            post = await Post.create({"name": "a", "iban": "DE0000001111"})
            await Chair.create({"post_id": post})
        yield app


async def test_why_tells_which_fields_are_left_out_or_masked_and_for_want_of_which_role(
    app: App,
) -> None:
    with system(reason="support"):
        verdict = await why((await Post.search())[0], principal=EVE)
        assert verdict.allowed is True and verdict.refusing == []
        told = {(r.name, r.right): (tuple(sorted(r.roles)), r.detail) for r in verdict.fields}
        assert told["pay", "read"] == (("hr",), "it is left out")
        assert told["pay", "aggregate"] == (("analyst", "hr"), "")
        assert told["iban", "read"] == (("hr",), "it is read masked")
        assert told["twice", "order"] == (("hr",), "")
        assert told["closed", "filter"] == ((), "no role has it")
        assert told["grade", "write"] == (("hr",), "") and ("grade", "read") not in told
        assert "field 'pay' of whyfield.post to read: refuses; for hr; it is left out" in str(
            verdict
        )
        verdict = await Post.search().why(principal=HANA)
        assert {reason.name for reason in verdict.fields} == {"closed"}


async def test_why_of_a_query_that_uses_the_field_is_refused(app: App) -> None:
    with system(reason="support"):
        for query, right in (
            (Post.search([("pay", ">", 1)]), "filter"),
            (Post.search(order="twice"), "order"),
            (Post.search().only("pay"), "read"),
        ):
            verdict = await query.why(principal=EVE)
            assert verdict.allowed is False
            assert [(r.kind, r.right) for r in verdict.refusing] == [("field", right)]
            assert (await query.why(principal=HANA)).allowed is not False
        assert (await Post.search([("pay", ">", 1)]).why("write", principal=EVE)).allowed is False


Ask = Callable[[Post], Awaitable[Any]]
PAY = ("hr",)
REFUSED: dict[str, tuple[Ask, str, str, str, tuple[str, ...]]] = {
    "filter": (lambda p: Post.search([("pay", ">", 1)]), "search", "pay", "filter", PAY),
    "count": (lambda p: Post.count([("pay", ">", 1)]), "count", "pay", "filter", PAY),
    "order": (lambda p: Post.search(order="-pay"), "search", "pay", "order", PAY),
    "group": (lambda p: Post.search().group("name", n=Sum("pay")), "group", "pay", "aggregate", ("analyst", "hr")),
    "only": (lambda p: Post.search().only("pay"), "search", "pay", "read", PAY),
    "read": (lambda p: p.read(["pay"]), "search", "pay", "read", PAY),
    "update": (lambda p: Post.search([("pay", ">", 1)]).update({"name": "b"}), "write", "pay", "filter", PAY),
    "a value": (lambda p: p.write({"grade": 2}), "write", "grade", "write", PAY),
    "values of many": (lambda p: Post.write_many({p.pk: {"grade": 2}}), "write", "grade", "write", PAY),
    "a new value": (lambda p: Post.create({"name": "x", "grade": 2}), "create", "grade", "write", PAY),
    "a value in a bulk": (lambda p: in_bulk(p), "write", "grade", "write", PAY),
}  # fmt: skip


async def in_bulk(post: Post) -> None:
    async with Post.bulk() as bulk:
        bulk.write(post, {"grade": 2})


@pytest.mark.parametrize("way", REFUSED)
async def test_a_refused_use_of_a_field_is_told_once_and_stays_in_the_trail(
    app: App, listener: Listener, way: str
) -> None:
    ask, operation, name, right, roles = REFUSED[way]
    with system(reason="load"):
        post = (await Post.search())[0]
    with act_as(EVE), pytest.raises(AccessDenied):
        await ask(post)
    assert listener.told == [("whyfield.post", operation, "eve", ((name, right, roles),))]
    await app.services.of_type(AuditLog).denials.stored()
    with system(reason="look"):
        [row] = await AuditDenial.search()
    assert (row.principal, row.model, row.roles) == ("eve", "whyfield.post", ["clerk"])
    [reason] = [reason for reason in row.reasons if reason["allows"] is False]
    assert (reason["kind"], reason["name"], reason["roles"]) == ("field", name, sorted(roles))


async def test_what_is_refused_inside_a_bulk_is_told_though_the_program_catches_it(
    app: App, listener: Listener
) -> None:
    with system(reason="load"):
        post = (await Post.search())[0]
    with act_as(EVE):
        async with Post.bulk() as bulk:
            with pytest.raises(AccessDenied):
                bulk.write(post, {"grade": 2})
            with pytest.raises(AccessDenied):
                bulk.create({"name": "x", "grade": 2})
            bulk.write(post, {"name": "b"})
        assert bulk.written == 1
    refused = (("grade", "write", PAY),)
    assert listener.told == [
        ("whyfield.post", "write", "eve", refused),
        ("whyfield.post", "create", "eve", refused),
    ]


async def test_a_page_that_would_hold_hidden_values_is_told(app: App, listener: Listener) -> None:
    with act_as(EVE), pytest.raises(AccessDenied):
        await Post.search(order="iban").paginate()
    assert listener.told == [("whyfield.post", "search", "eve", (("iban", "read", ()),))]


async def test_a_use_in_another_model_is_told(app: App, listener: Listener) -> None:
    with act_as(EVE), pytest.raises(AccessDenied):
        await Chair.search([("post_id.pay", ">", 1)])
    assert ("pay", "filter", ("hr",)) in {
        reason for *_, reasons in listener.told for reason in reasons
    }


async def test_the_report_lists_the_rights_on_fields(app: App, capsys: Any) -> None:
    [report] = app.services.of_type(Security).report("whyfield.post")
    lines = list(report.lines())
    assert "  field 'pay': read, write, filter, order: hr; aggregate: analyst or hr" in lines
    assert any("'iban'" in line and line.endswith("others read it masked") for line in lines)
    assert any("'closed'" in line and "nobody" in line for line in lines)
    assert any("'twice'" in line and "hr" in line for line in lines)
    assert not any("'name'" in line for line in lines)
    await security_command(app, "report", "whyfield.post", as_json=True)
    [told] = json.loads(capsys.readouterr().out)
    [grade] = [field for field in told["fields"] if field["name"] == "grade"]
    assert grade == {"name": "grade", "rights": {"write": [["hr"]]}, "masked": False}
    await security_command(app, "explain", "whyfield.post", "eve", ["clerk"])
    assert (
        "field 'iban' of whyfield.post to read: refuses; for hr; it is read masked"
        in capsys.readouterr().out
    )


async def test_implied_roles_count(opened: Any) -> None:
    async with opened(roles=[Role("boss", implies=["hr"])]):
        with system(reason="ask"):
            verdict = await Post.search().why(principal=Principal("b", ["boss"]))
        assert {reason.name for reason in verdict.fields} == {"closed"}


class Shed(models.BaseModel):
    _name = "whyfield.shed"
    _discriminator = "kind"
    _field_rights = [FieldRights("rent", read=["office"])]
    rent = Int(default=1)


class Barn(Shed):
    _name = "whyfield.barn"


class Hut(Shed):
    _name = "whyfield.hut"
    _field_rights = [FieldRights("rent", read=["board"])]


async def test_a_demand_that_several_classes_of_a_family_have_is_told_once(app: App) -> None:
    with system(reason="support"):
        hut = await Hut.create({})
        verdict = await why(Shed.browse([hut.pk])[0], principal=EVE)
        told = [
            tuple(sorted(r.roles)) for r in verdict.fields if (r.name, r.right) == ("rent", "read")
        ]
        assert sorted(told) == [("board",), ("office",)]


class Stall(models.BaseModel):
    """A field that others may not use, and two that reach it by methods of their own."""

    _name = "whyfield.stall"
    _field_rights = [
        FieldRights("rent", read=["office"], filter=["office"], write=["office"]),
        FieldRights("closed_level", read=["office"], filter=["office"], write=["office"]),
    ]
    rent = Int(default=1)
    level = Int(compute="_level", search="_search_level", inverse="_set_level")
    closed_level = Int(compute="_level", search="_search_level", inverse="_set_level")

    @depends()
    def _level(self) -> int:
        return 0

    @classmethod
    def _search_level(cls, operator: str, value: Any) -> list[tuple[str, str, Any]]:
        return [("rent", operator, value)]

    def _set_level(self, value: int) -> None:
        self.rent = value


async def test_methods_of_search_and_inverse_are_the_programs_and_take_rights_of_their_own(
    app: App,
) -> None:
    with system(reason="fill"):
        stall = await Stall.create({"rent": 7})
    with act_as(EVE):
        with pytest.raises(AccessDenied):
            await Stall.count([("rent", "=", 7)])
        assert await Stall.count([("level", "=", 7)]) == 1
        for use in (
            lambda: Stall.count([("closed_level", "=", 7)]),
            lambda: Stall.browse([stall.pk]).write({"closed_level": 9}),
        ):
            with pytest.raises(AccessDenied):
                await use()
    with system(reason="look"):
        assert (await Stall.get(stall.pk)).rent == 7
