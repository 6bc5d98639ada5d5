"""MongoEngine, synchronous: its tasks come one after another, as its users' do on one thread."""

from __future__ import annotations

from typing import Any

import mongoengine as me
from mongoengine.errors import ValidationError

from benchmarks.systems.base import Seen, System, flat


class PersonFields(me.Document):
    meta = {"abstract": True}
    name = me.StringField(required=True, max_length=80)
    email = me.EmailField(required=True)
    age = me.IntField(required=True, min_value=0, max_value=150)
    city = me.StringField(required=True)
    street = me.StringField(required=True)
    phone = me.StringField()
    score = me.FloatField(required=True)
    visits = me.IntField(required=True)
    active = me.BooleanField(required=True)
    note = me.StringField()


class Person(PersonFields):
    meta = {"collection": "people", "auto_create_index": False}


class Streamed(PersonFields):
    meta = {"collection": "stream", "auto_create_index": False}


class Inserted(PersonFields):
    meta = {"collection": "inserted", "auto_create_index": False}


class Address(me.EmbeddedDocument):
    street = me.StringField(required=True)
    city = me.StringField(required=True)
    code = me.StringField(required=True)


class Customer(me.Document):
    meta = {"collection": "customers", "auto_create_index": False}
    name = me.StringField(required=True)
    email = me.EmailField(required=True)
    age = me.IntField(required=True)
    active = me.BooleanField(required=True)
    address = me.EmbeddedDocumentField(Address, required=True)


class Country(me.Document):
    meta = {"collection": "countries", "auto_create_index": False}
    name = me.StringField(required=True)


class Author(me.Document):
    meta = {"collection": "authors", "auto_create_index": False}
    name = me.StringField(required=True)
    country = me.ReferenceField(Country, required=True)


class Post(me.Document):
    meta = {"collection": "posts", "auto_create_index": False}
    title = me.StringField(required=True)
    author = me.ReferenceField(Author, required=True)


class Comment(me.Document):
    meta = {"collection": "comments", "auto_create_index": False}
    text = me.StringField(required=True)
    post = me.ReferenceField(Post, required=True)


class MongoEngine(System):
    """Eager is ``select_related``; lazy is its automatic dereferencing."""

    packages = ("mongoengine",)

    async def open(self) -> None:
        me.connect(self.database, host=self.uri).admin.command("ping")

    async def close(self) -> None:
        me.disconnect()

    async def insert_one(self) -> Seen:
        for values in self.values:
            Inserted(**values).save(force_insert=True)
        return Inserted.objects.count()

    async def insert_many(self) -> Seen:
        return len(Inserted.objects.insert([Inserted(**v) for v in self.values], load_bulk=False))

    async def hold(self) -> Seen:
        return list(Person.objects)

    async def find_two(self) -> Seen:
        return [(r.name, r.age) for r in Person.objects]

    async def find_flat(self) -> Seen:
        return [flat(r) for r in Person.objects]

    async def find_embedded(self) -> Seen:
        return [
            (r.name, r.email, r.age, r.active, a.street, a.city, a.code)
            for r in Customer.objects
            for a in (r.address,)
        ]

    async def stream(self) -> Seen:
        total = 0
        for record in Streamed.objects.no_cache():
            total += record.age + len(record.name)
        return total

    async def get(self) -> Seen:
        return [Person.objects.get(id=pk).name for pk in self.ids]

    async def get_tasks(self) -> Seen:
        return [[Person.objects.get(id=pk).name for pk in ids] for ids in self.seen_by_tasks()]

    async def filtered(self) -> Seen:
        seen = []
        for number in range(self.sizes.calls):
            query = Person.objects(city=f"City {number % 50}", age__gt=20)
            seen.append([r.age for r in query.order_by("-age").limit(20)])
        return seen

    async def save(self) -> Seen:
        record = Person.objects.get(id=self.ids[0])
        for number in range(self.sizes.calls):
            record.visits = self.turn + number
            record.save()
        return Person.objects.get(id=self.ids[0]).visits - self.turn

    async def save_many(self) -> Seen:
        posts = list(Post.objects.no_dereference())
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {self.turn}"
            post.save()
        return len(posts)

    async def update(self) -> Seen:
        changed = 0
        for number in range(max(5, self.sizes.calls // 25)):
            people = Person.objects(city=f"City {number}")
            changed += people.update(set__phone=f"+49 {self.turn}", full_result=True).matched_count
        return changed

    async def posts_eager(self) -> Seen:
        return [post.author.name for post in Post.objects.select_related()]

    async def posts_lazy(self) -> Seen:
        return [post.author.name for post in Post.objects]

    async def three_levels(self) -> Seen:
        comments = Comment.objects.select_related(max_depth=3)
        return [comment.post.author.country.name for comment in comments]

    async def group(self) -> Seen:
        rows: list[Any] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = list(
                Person.objects(age__gte=10).aggregate(
                    [
                        {"$group": {"_id": "$city", "total": {"$sum": "$visits"}}},
                        {"$sort": {"_id": 1}},
                    ]
                )
            )
        return [(row["_id"], row["total"]) for row in rows]

    async def construct(self) -> Seen:
        made = [Inserted(**values) for values in self.values]
        for each in made:
            each.validate()  # its constructor checks nothing
        return len(made)

    async def invalid(self) -> Seen:
        refused = 0
        for _ in range(self.sizes.inserts):
            try:
                Inserted(
                    name="x", email="nobody", age=-1, city="c", street="s", score=1.0
                ).validate()
            except ValidationError:
                refused += 1
        return refused
