"""What a client asks of a list: read against an offer, and loaded with the principal's rights."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

import earnorm
from earnorm import Int, Principal, String, models
from earnorm.integrations.listings import Listing
from earnorm.integrations.problems import ParameterRefused
from earnorm_security import FieldRights, Rule, user


class Chore(models.BaseModel):
    _name = "listings.chore"
    _rules = [Rule("own", [("owner", "=", user.id)])]
    _field_rights = [FieldRights("wage", read=["boss"])]
    title = String(required=True)
    owner = String()
    hours = Int(default=0)
    wage = Int(default=0)
    note = String()  # nobody asks for it


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
