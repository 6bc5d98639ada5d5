"""Indexes: made once, and a clash says which."""

from __future__ import annotations

import traceback
import uuid

import pytest

from earnorm.backends import Backend
from earnorm.backends.base import Collection, IndexSpec
from earnorm.exceptions import ConfigurationError, DuplicateKey

EMAIL = IndexSpec((("email", 1),), {"unique": True})
NAME_AGE = IndexSpec((("name", 1), ("age", -1)))


async def test_indexes_are_created_and_listed_with_their_options(users: Collection) -> None:
    await users.create_indexes([EMAIL, NAME_AGE])
    listed = {index["name"]: index for index in await users.list_indexes()}
    assert set(listed) == {"_id_", EMAIL.name, NAME_AGE.name}
    assert listed["email_1"]["key"] == {"email": 1}
    assert listed["email_1"]["unique"] is True
    assert list(listed["name_1_age_-1"]["key"].items()) == [("name", 1), ("age", -1)]


async def test_creating_them_again_changes_nothing(users: Collection) -> None:
    for _ in range(2):
        await users.create_indexes([EMAIL, NAME_AGE])
    await users.create_indexes([])
    assert len(await users.list_indexes()) == 3


async def test_a_collection_that_does_not_exist_has_no_indexes(server_backend: Backend) -> None:
    assert await server_backend.collection("nowhere").list_indexes() == []


async def test_a_unique_index_refuses_the_second_and_names_its_fields(users: Collection) -> None:
    await users.create_indexes([EMAIL, IndexSpec((("a.b", 1), ("c", 1)), {"unique": True})])
    await users.insert([{"_id": 1, "email": "x", "a": {"b": 1}, "c": 1}])
    with pytest.raises(DuplicateKey) as caught:
        await users.insert([{"_id": 2, "email": "x", "a": {"b": 2}, "c": 1}])
    assert caught.value.fields == ("email",)
    with pytest.raises(DuplicateKey) as caught:
        await users.insert([{"_id": 2, "email": "y", "a": {"b": 1}, "c": 1}])
    assert caught.value.fields == ("a.b", "c")


async def test_a_partial_unique_index_binds_only_what_it_covers(users: Collection) -> None:
    active = {"partialFilterExpression": {"active": True}}
    await users.create_indexes([IndexSpec((("email", 1),), {"unique": True, **active})])
    await users.insert([{"_id": n, "email": "x", "active": n == 0} for n in range(3)])
    with pytest.raises(DuplicateKey):
        await users.insert([{"_id": 9, "email": "x", "active": True}])


async def test_a_name_taken_by_another_index_is_said_with_the_name(users: Collection) -> None:
    await users.create_indexes([IndexSpec((("email", 1),), {"name": "by_email"})])
    clash = IndexSpec((("name", 1),), {"name": "by_email"})
    with pytest.raises(ConfigurationError, match=r"users: index 'by_email' on name .*code 86"):
        await users.create_indexes([NAME_AGE, clash])
    assert NAME_AGE.name in {index["name"] for index in await users.list_indexes()}


async def test_the_same_keys_with_other_options_are_said_with_the_name(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.create_indexes([IndexSpec((("email", 1),), {"name": "by_email"})])
    with pytest.raises(ConfigurationError, match=r"index 'email_1' on email .*code 85"):
        await users.create_indexes([NAME_AGE, IndexSpec((("email", 1),))])


async def test_a_unique_index_over_duplicates_is_said_without_their_value(
    users: Collection,
) -> None:
    secret = uuid.uuid4().hex
    await users.insert([{"_id": 1, "email": secret}, {"_id": 2, "email": secret}])
    with pytest.raises(ConfigurationError, match=r"'email_1'.*share a value") as caught:
        await users.create_indexes([EMAIL])
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert "create_indexes=False" in str(caught.value)


async def test_the_documents_that_share_a_value_are_named_within_a_partial_index(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": n, "email": None if n < 2 else "a", "n": n} for n in range(7)])
    partial = {"unique": True, "partialFilterExpression": {"n": {"$gt": 3}}}
    with pytest.raises(ConfigurationError, match="for example 4 and 5 and 6;"):
        await users.create_indexes([IndexSpec((("email", 1),), partial)])
    await users.delete({"n": {"$gt": 1}})
    with pytest.raises(ConfigurationError, match="for example 0 and 1;"):
        await users.create_indexes([EMAIL])


async def test_an_unknown_index_option_is_said_with_the_name(server_backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="'name_1'"):
        await server_backend.collection("users").create_indexes(
            [IndexSpec((("name", 1),), {"uniq": True})]
        )
