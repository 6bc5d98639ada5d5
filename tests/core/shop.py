"""The models of these tests: people, a blog for its relations, a versioned counter."""

from __future__ import annotations

from earnorm import (
    BaseModel,
    Boolean,
    Date,
    Dict,
    Email,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    List,
    Many2one,
    One2many,
    String,
)


class Address(EmbeddedModel):
    city = String(required=True)
    street = String()


class Person(BaseModel):
    _name = "core.person"

    name = String(required=True)
    email = Email(unique=True)
    age = Int(min_value=0)
    score = Float()
    born = Date()
    active = Boolean(default=True)
    tags = List(String(), default=list)
    extra = Dict()
    address = Embedded(Address)
    badge = String(readonly=True, db_name="badge_number")


class Country(BaseModel):
    _name = "core.country"

    name = String(required=True)


class Author(BaseModel):
    _name = "core.author"

    name = String(required=True)
    country_id = Many2one(Country)
    post_ids = One2many("core.post", "author_id")


class Post(BaseModel):
    _name = "core.post"

    title = String(required=True)
    author_id = Many2one(Author)
    comment_ids = One2many("core.comment", "post_id")


class Comment(BaseModel):
    _name = "core.comment"

    text = String(required=True)
    post_id = Many2one(Post)
    author_id = Many2one("core.author")


class Stock(BaseModel):
    _name = "core.stock"
    _versioned = True

    name = String()
    number = Int(default=0)
