"""Models of the relation tests: articles with tags in both forms, teams by a link model, orders with lines."""

from __future__ import annotations

from earnorm import (
    BaseModel,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    String,
)


class Tag(BaseModel):
    _name = "lib.tag"

    name = String(required=True)
    article_ids = Many2many["Article"]("lib.article", inverse="tag_ids", order="-title")


class Article(BaseModel):
    _name = "lib.article"

    title = String(required=True)
    tag_ids = Many2many(Tag, db_name="tags", index=True)
    note_ids = One2many["Note"]("lib.note", "article_id", order="sequence")


class Note(BaseModel):
    _name = "lib.note"

    text = String()
    sequence = Int(default=0)
    article_id = Many2one(Article)
    tag_ids = Many2many(Tag)


class Person(BaseModel):
    _name = "lib.person"

    name = String(required=True)
    team_ids = Many2many["Team"]("lib.team", through="lib.membership", order="since")
    membership_ids = One2many["Membership"]("lib.membership", "person_id")


class Team(BaseModel):
    _name = "lib.team"

    name = String(required=True)
    person_ids = Many2many(Person, through="lib.membership")


class Membership(BaseModel):
    _name = "lib.membership"

    person_id = Many2one(Person, required=True)
    team_id = Many2one(Team, required=True)
    role = String()
    since = Int(default=0)


class Product(BaseModel):
    _name = "lib.product"

    name = String(required=True)
    maker_id = Many2one(Person)


class Line(EmbeddedModel):
    product_id = Many2one(Product)
    number = Int(default=1)


class Delivery(EmbeddedModel):
    by_id = Many2one(Person)
    lines = List(Embedded(Line), default=list)


class Order(BaseModel):
    _name = "lib.order"

    title = String()
    lines = List(Embedded(Line), default=list)
    delivery = Embedded(Delivery)
