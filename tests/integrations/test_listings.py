"""What a client asks of a list: read against an offer, and loaded with the principal's rights."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

import earnorm
from earnorm import Int, List, Many2one, Principal, String, models
from earnorm.integrations.listings import Listing, row_of
from earnorm.integrations.problems import ParameterRefused
from earnorm_security import FieldRights, Rule, user


class Helper(models.BaseModel):
    _name = "listings.helper"
    name = String()
    tasks = List(String())


class Chore(models.BaseModel):
    _name = "listings.chore"
    _rules = [Rule("own", [("owner", "=", user.id)])]
    _field_rights = [FieldRights("wage", read=["boss"])]
    title = String(required=True)
    owner = String()
    hours = Int(default=0)
    wage = Int(default=0)
    note = String()  # nobody asks for it
    helper_id = Many2one(Helper)
    tags = List(String())


OFFER = Listing(
    fields=["title", "hours", "wage"],
    filter={"title": ["=", "ilike"], "hours": ["=", "<", ">", "in"], "wage": ["="]},
    order=["title", "hours", "wage"],
    size=2,
    most=5,
)


async def filled(app: earnorm.App) -> None:
    with earnorm.system(reason="fill"):
        await Chore.create(
            [{"title": f"t{n}", "owner": "ann", "hours": n, "wage": 9} for n in range(5)]
            + [{"title": f"hidden {n}", "owner": "bob", "hours": n} for n in range(3)]
        )


def asked(**parameters: object) -> dict[str, object]:
    sent = dict(parameters)
    if "filter" in sent and not isinstance(sent["filter"], str):
        sent["filter"] = json.dumps(sent["filter"])
    return sent


async def rows(**parameters: object) -> list[dict[str, Any]]:
    return (await OFFER.read(asked(**parameters)).page(Chore)).rows


@pytest.fixture
async def app(mongo_uri: str, database: str) -> Any:
    async with earnorm.App(mongo_uri, database=database, plugins=["security"]) as app:
        await filled(app)
        yield app


async def test_pages_go_forth_and_back_by_their_links(app: earnorm.App) -> None:
    with earnorm.act_as("ann"):
        sent: dict[str, object] = {"order": "-hours", "fields": "hours", "key": "kept"}
        seen: list[int] = []
        links: dict[str, str] = {}
        while True:
            page = await OFFER.read(sent).page(Chore)
            seen += [row["hours"] for row in page.rows]
            assert all(set(row) == {"id", "hours"} for row in page.rows)
            links = {
                part.split('rel="')[1].rstrip('"'): part.split("<?")[1].split(">")[0]
                for part in page.link(sent.items()).split(", ")
            }
            assert parse_qs(links["first"])["key"] == ["kept"]
            if "next" not in links:
                break
            sent = {name: values[0] for name, values in parse_qs(links["next"]).items()}
        assert seen == [4, 3, 2, 1, 0]
        back = {name: values[0] for name, values in parse_qs(links["prev"]).items()}
        assert [row["hours"] for row in (await OFFER.read(back).page(Chore)).rows] == [2, 1]


async def test_hidden_records_are_found_in_no_way(app: earnorm.App) -> None:
    with earnorm.act_as("ann"), earnorm.system(reason="a handler that forgot itself"):
        assert await rows(filter=[["title", "ilike", "hidden"]]) == []
        assert len(await rows(limit="5")) == 5
        assert all(row["title"][0] == "t" for row in await rows(order="title", limit=5))
    with earnorm.act_as("bob"):
        page = await OFFER.read(asked(order="title", limit=1)).page(Chore)
        cursor = page.page.next
    with earnorm.act_as("ann"):  # another's cursor is a position, and gives nothing of its record
        assert [row["title"][0] for row in await rows(order="title", after=cursor)] == ["t", "t"]


async def test_a_field_without_right_is_left_out_and_denied_where_it_is_named(
    app: earnorm.App,
) -> None:
    with earnorm.act_as("ann"):
        assert all(set(row) == {"id", "title", "hours"} for row in await rows())
        for sent in (
            {"fields": "wage"},
            {"order": "wage"},
            {"filter": [["wage", "=", 9]]},
        ):
            with pytest.raises(earnorm.AccessDenied):
                await rows(**sent)
    with earnorm.act_as(Principal("ann", roles=["boss"])):
        assert [row["wage"] for row in await rows()] == [9, 9]


@pytest.mark.parametrize(
    ("sent", "parameter"),
    [
        ({"filter": "{"}, "filter"),
        ({"filter": "title"}, "filter"),
        ({"filter": "[" * 100_000}, "filter"),
        ({"filter": "[" * 1_900}, "filter"),
        ({"filter": '{"$where": "sleep(1)"}'}, "filter"),
        ({"filter": [["note", "=", "x"]]}, "filter"),
        ({"filter": [["title", "regex", "(a+)+$"]]}, "filter"),
        ({"filter": [["title", "=", {"$ne": None}]]}, "filter"),
        ({"filter": '[["hours", "=", NaN]]'}, "filter"),
        ({"filter": f'[["hours", "=", {"9" * 1_500}]]'}, "filter"),
        ({"filter": [["hours", ">", "many"]]}, "filter"),
        ({"filter": [["title", "=", 3]]}, "filter"),
        ({"filter": '[["title", "=", "\\ud800"]]'}, "filter"),
        ({"order": "note"}, "order"),
        ({"order": "title,$natural"}, "order"),
        ({"order": ",".join(["title"] * 50)}, "order"),
        ({"fields": "note"}, "fields"),
        ({"fields": ""}, "fields"),
        ({"limit": "0"}, "limit"),
        ({"limit": "6"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "1e9"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),
        ({"after": "x"}, "after"),
        ({"before": "é"}, "before"),
        ({"after": "A" * 5_000}, "after"),
        ({"after": "x", "before": "y"}, "before"),
    ],
    ids=str,
)
async def test_what_is_not_offered_is_refused_with_its_parameter(
    app: earnorm.App, sent: dict[str, object], parameter: str
) -> None:
    with earnorm.act_as("ann"), pytest.raises(ParameterRefused) as caught:
        await rows(**sent)
    assert caught.value.status == 422
    assert {detail["loc"][0] for detail in caught.value.errors()} == {parameter}
    assert all(detail["loc"][1:2] != (parameter,) for detail in caught.value.errors())


async def test_an_empty_parameter_is_one_that_was_not_sent(app: earnorm.App) -> None:
    with earnorm.act_as("ann"):
        assert await rows(filter="", order="", limit="", after="", before="") == await rows()


async def test_a_list_may_be_part_of_a_query_of_the_program(app: earnorm.App) -> None:
    with earnorm.act_as("ann"):
        page = await OFFER.read(asked(order="-hours")).page(Chore.search([("hours", "<", 3)]))
        assert [row["hours"] for row in page.rows] == [2, 1]


async def test_an_offer_that_is_none_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError):
        Listing(fields="title")
    with pytest.raises(TypeError):
        Listing(fields=[])
    with pytest.raises(ValueError, match="from 1 to most"):
        Listing(fields=["title"], size=500)
    with pytest.raises(TypeError):
        Listing(fields=["title"], filter="title")
    with pytest.raises(TypeError):
        Listing(fields=["title"], order="title")


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        ({"filter": {"title": "ilike"}}, "operators of 'title' are a list"),
        ({"filter": {"title": []}}, "operators of 'title' are a list"),
        ({"filter": [3]}, "filter"),
        ({"order": ["-title"]}, "'-title' has a sign"),
        ({"order": ["title,hours"]}, "'title,hours' is no name"),
        ({"order": [("title", 1)]}, "order"),
        ({"fields": ["title", 3]}, "fields"),
        ({"fields": ["title", "title"]}, "'title' is there twice"),
        ({"default_order": ["title"]}, "default_order"),
    ],
    ids=str,
)
def test_what_needs_no_model_is_checked_when_an_offer_is_made(
    offer: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Listing(**{"fields": ["title"], **offer})


@pytest.mark.parametrize("name", ["length", "timeout"])
def test_a_bound_of_an_offer_is_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Listing(fields=["title"], **{name: 0})  # type: ignore[arg-type]  # of either type


MISSPELT: list[tuple[dict[str, Any], str]] = [
    ({"fields": ["titel"]}, "fields: .*'titel'; did you mean 'title'"),
    ({"filter": ["titel"]}, "filter: .*'titel'; did you mean 'title'"),
    ({"filter": {"title": ["="], "titel": ["="]}}, "filter: .*'titel'; did you mean 'title'"),
    ({"filter": {"title": ["=="]}}, "filter: .*'title'.*'=='; did you mean '='"),
    ({"filter": {"title": ["=", "ilik"]}}, "'ilik'; did you mean 'ilike'"),
    ({"filter": ["helper_id.nam"]}, "filter: .*'nam'; did you mean 'name'"),
    ({"order": ["titel"]}, "order: .*'titel'; did you mean 'title'"),
    ({"order": ["tags"]}, "order: .*leads to a list"),
    ({"order": ["helper_id.name"]}, "order: .*lies in other records"),
    ({"default_order": "-titel"}, "default_order: .*'titel'; did you mean 'title'"),
]


@pytest.mark.parametrize(("offer", "message"), MISSPELT, ids=str)
async def test_a_slip_of_the_program_is_never_told_to_the_client(
    app: earnorm.App, offer: dict[str, Any], message: str
) -> None:
    listing = Listing(**{"fields": ["title"], **offer})
    with earnorm.act_as("ann"), pytest.raises(earnorm.ConfigurationError, match=message) as caught:
        await listing.read({}).page(Chore)
    assert "listings.chore" in str(caught.value) and caught.value.status == 500


async def test_an_error_lists_all_slips_of_an_offer(app: earnorm.App) -> None:
    listing = Listing(fields=["titel"], filter=["hour"], order=["wages"])
    with pytest.raises(earnorm.ConfigurationError) as caught:
        listing.check(Chore)
    assert [name in str(caught.value) for name in ("'title'", "'hours'", "'wage'")] == [True] * 3


async def test_an_offer_may_lead_through_relations_and_be_about_ids(app: earnorm.App) -> None:
    listing = Listing(
        fields=["id", "title", "helper_id"],
        filter={"id": ["in"], "helper_id": ["="], "helper_id.name": ["="], "tags": ["="]},
        order=["id", "helper_id"],
        default_order="-title,id",
    )
    listing.check(Chore)
    with earnorm.act_as("ann"):
        asked_for = listing.read(asked(filter=[["helper_id.name", "=", "x"]], order="-id"))
        assert (await asked_for.page(Chore)).rows == []


async def test_an_error_of_the_programs_own_query_is_not_the_clients(app: earnorm.App) -> None:
    with earnorm.act_as("ann"), pytest.raises(earnorm.DomainError) as caught:
        await OFFER.read({}).page(Chore.search([("titel", "=", "x")]))
    assert not isinstance(caught.value, ParameterRefused)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"filter": "{"}, "it is no JSON; for example "),
        ({"fields": ""}, "it is empty"),
        ({"fields": " "}, "it is empty"),
        ({"fields": "title,"}, "a name is empty"),
        ({"order": "title,"}, "a name is empty"),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_wrong(parameter: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterRefused) as caught:
        OFFER.read(parameter)
    [detail] = caught.value.errors()
    assert detail["loc"][0] in parameter and message in detail["msg"]


async def test_a_row_has_its_fields_in_the_order_of_the_offer_or_of_the_client(
    app: earnorm.App,
) -> None:
    listing = Listing(fields=["hours", "owner", "title"])
    with earnorm.act_as("ann"):
        page = await listing.read({}).page(Chore)
        assert list(page.rows[0]) == ["id", "hours", "owner", "title"]
        assert list(row_of(page.records[0], ["title", "id", "hours"])) == ["id", "title", "hours"]
        page = await listing.read({"fields": "title,hours"}).page(Chore)
        assert list(page.rows[0]) == ["id", "title", "hours"]
