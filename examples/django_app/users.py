"""Makes Django's tables and three users: ``python -m examples.django_app.users``, once, before the server."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")

import django
from django.core.management import call_command

USERS = {"ann": "customer", "bob": "customer", "eve": "agent"}


def make() -> None:
    """Make the tables, and users whose password is their name."""
    from django.contrib.auth.models import Group, User

    call_command("migrate", verbosity=0)
    for name, role in USERS.items():
        user, is_new = User.objects.get_or_create(username=name)
        if is_new:
            user.set_password(name)
            user.save()
        user.groups.add(Group.objects.get_or_create(name=role)[0])


if __name__ == "__main__":
    django.setup()
    make()
