"""The services of an App, found by their name and by their class."""

from __future__ import annotations

import pytest

from earnorm import PluginError
from earnorm.kernel.plugins.services import Services


class Post:
    """A service."""


class Parcels(Post):
    """Another one."""


def offered(**services: object) -> Services:
    found = Services()
    for name, service in services.items():
        found.add(name, service, "mail")
    return found


def test_a_service_is_found_by_its_class_and_by_its_name() -> None:
    post = Post()
    services = offered(post=post, text="x")
    assert services.get(Post) is post
    assert services.of_type(Post) is post
    assert services["post"] is post
    assert services.get("post") is post


def test_get_has_a_default_where_nobody_offers_one() -> None:
    services = offered(post=Post())
    assert services.get(Parcels) is None
    assert services.get(Parcels, "none") == "none"
    assert services.get("parcels") is None
    assert services.get("parcels", 3) == 3
    with pytest.raises(PluginError, match="0 services of this App are a Parcels"):
        services.of_type(Parcels)
    with pytest.raises(PluginError, match="did you mean 'post'"):
        services["pots"]


def test_several_of_a_class_are_no_answer() -> None:
    services = offered(post=Post(), parcels=Parcels())
    assert isinstance(services.get(Parcels), Parcels)
    for find in (services.get, services.of_type):
        with pytest.raises(PluginError, match="2 services of this App are a Post, not one"):
            find(Post)
