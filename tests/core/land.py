"""Models for conditions across relations: lands in a tree, authors of a land, posts of an author."""

from __future__ import annotations

from earnorm import (
    BaseModel,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2one,
    One2many,
    String,
)


class Land(BaseModel):
    _name = "rel.land"

    name = String(required=True)
    size = Int(db_name="s")
    parent_id = Many2one("rel.land", db_name="up")


class Place(EmbeddedModel):
    city = String()
    land_id = Many2one(Land, db_name="l")


class Author(BaseModel):
    _name = "rel.author"

    name = String(required=True)
    age = Int()
    land_id = Many2one(Land, db_name="land")
    place = Embedded(Place)
    places = List(Embedded(Place))
    post_ids = One2many("rel.post", "author_id")


class Post(BaseModel):
    _name = "rel.post"

    title = String(required=True)
    stars = Int()
    author_id = Many2one(Author, db_name="by")
    land_ids = List(Many2one(Land))
