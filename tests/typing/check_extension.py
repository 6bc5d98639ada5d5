"""What type checkers infer of an extension's typed view; run by mypy --strict and pyright, never executed."""

import datetime
from typing import assert_type

from earnorm import BaseModel, Domain, Query, RecordSet, Sequence, String, mixins, sequence


class User(BaseModel):
    name = String(required=True)


class UserPhone(User):
    _inherit = "user"
    phone = String()


class Loose(BaseModel):
    """A view without the model's own class: it knows what it adds."""

    _inherit = "user"
    phone = String(required=True)


async def views(user: User) -> None:
    assert_type(UserPhone.of(user), UserPhone)
    assert_type(UserPhone.of(user).phone, str | None)
    assert_type(UserPhone.of(user).name, str)
    assert_type(Loose.of(user).phone, str)
    assert_type(UserPhone.search(UserPhone.phone == "1"), Query[UserPhone])
    assert_type(await UserPhone.search(), RecordSet[UserPhone])
    assert_type(await UserPhone.create({"name": "Ann"}), UserPhone)
    assert_type(UserPhone.phone == "1", Domain)
    assert_type(User.search(UserPhone.phone == "1"), Query[User])
    print(user.phone)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType] # not of the model


class Invoice(mixins.SoftDelete, mixins.Timestamps, mixins.Authors, BaseModel):
    number = Sequence("{number}")


async def ready_mixins(invoice: Invoice) -> None:
    assert_type(invoice.active, bool)
    assert_type(invoice.created_at, datetime.datetime)
    assert_type(invoice.created_by, str | None)
    assert_type(invoice.number, str)
    assert_type(await invoice.archive(), Invoice)
    assert_type(Invoice.with_archived(), Query[Invoice])
    assert_type(await (await Invoice.search()).unarchive(), int)
    assert_type(await sequence("a").next(), int)
