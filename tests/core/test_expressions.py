"""Conditions written with fields: each builds what the list notation writes."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import BaseModel, Domain, Embedded, EmbeddedModel, Int, List, Point, String

from .land import Author, Post


class Box(EmbeddedModel):
    size = Int()
    name = String()
    place = Point()


class Shelf(BaseModel):
    _name = "expr.shelf"

    box = Embedded(Box)
    boxes = List(Embedded(Box))
    place = Point()


AT = [105.8, 21.0]


@pytest.mark.parametrize(
    ("built", "written"),
    [
        (Post.title.not_like("a"), ("title", "not like", "a")),
        (Post.title.not_ilike("a"), ("title", "not ilike", "a")),
        (Post.title.eq_like("a%"), ("title", "=like", "a%")),
        (Post.title.eq_ilike("a%"), ("title", "=ilike", "a%")),
        (Post.title.regex("^a"), ("title", "regex", "^a")),
        (Post.title.exists(False), ("title", "exists", False)),
        (Post.title.not_in(["a"]), ("title", "not in", ["a"])),
        (Author.places.size(2), ("places", "size", 2)),
        (Post.land_ids.all([1]), ("land_ids", "all", [1])),
        (Author.places.elem([("city", "=", "x")]), ("places", "elem", [("city", "=", "x")])),
        (Author.place.city == "Huế", ("place.city", "=", "Huế")),
        (Author.places.city.in_(["x"]), ("places.city", "in", ["x"])),
        (Author.place.land_id.name == "x", ("place.land_id.name", "=", "x")),
        (Post.author_id.name == "Ann", ("author_id.name", "=", "Ann")),
        (Post.author_id.id == "x", ("author_id.id", "=", "x")),
        (Post.author_id.land_id.parent_id.size > 3, ("author_id.land_id.parent_id.size", ">", 3)),
        (Post.author_id.any(Author.age > 3), ("author_id", "any", [("age", ">", 3)])),
        (Author.post_ids.not_any([]), ("post_ids", "not any", [])),
        (Author.post_ids.stars >= 3, ("post_ids.stars", ">=", 3)),
        (Post.land_ids.name.like("V"), ("land_ids.name", "like", "V")),
        (Author.land_id.child_of(["x"]), ("land_id", "child_of", ["x"])),
        (Author.land_id.parent_of("x"), ("land_id", "parent_of", "x")),
        (Author.land_id != None, ("land_id", "!=", None)),  # noqa: E711 - a condition
        # A field inside wins over whatever else has its name.
        (Shelf.box.size == 3, ("box.size", "=", 3)),
        (Shelf.box.name.like("a"), ("box.name", "like", "a")),
        (Shelf.place.near(*AT, max_distance=5), ("place", "near", [*AT, 5])),
        (
            Shelf.box.place.near(*AT, max_distance=5, min_distance=1),
            ("box.place", "near", [*AT, 5, 1]),
        ),
        (Shelf.place.within([AT, AT, AT]), ("place", "within", [AT, AT, AT])),
    ],
    ids=str,
)
def test_an_expression_is_a_condition(built: Domain, written: tuple[Any, ...]) -> None:
    assert built == Domain([written])


def test_a_path_has_the_attributes_of_its_field() -> None:
    assert Post.author_id.comodel is Author
    assert repr(Post.author_id) == "<Many2one Post.author_id>"


def test_a_path_that_leads_nowhere_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no field 'nme'; did you mean 'name'"):
        _ = Post.author_id.nme
    with pytest.raises(AttributeError, match="no field 'citi'; did you mean 'city'"):
        _ = Author.place.citi


@pytest.mark.parametrize(
    "domain",
    [
        Post.author_id.any((Author.age > 3) | Author.post_ids.not_any([("stars", "in", [1, 2])])),
        Shelf.place.within({"type": "Polygon", "coordinates": [[AT, AT, AT]]}),
        ~Post.author_id.any([("name", "=", "x")]),
    ],
    ids=str,
)
def test_nested_domains_read_back_and_stay_equal(domain: Domain) -> None:
    again = Domain(domain.to_list())
    assert again == domain and hash(again) == hash(domain)
    assert domain.simplify() == domain and ~~domain == domain
    assert domain != Post.author_id.any([("name", "=", "y")])
