"""The settings of examples/django_app with passwords that are checked quickly: fifty clients sign in at once."""

from examples.django_app.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
