"""Settings of the help desk: MongoDB for the tickets, SQLite for Django's users and sessions.

``MONGO_URI`` names the database server, a replica set, and ``REDIS_URL`` a Redis, if there is one.
"""

import os
from typing import Any

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "an example's key")
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "examples.django_app.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "earnorm.integrations.django.AppMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("USERS", "users.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
USE_TZ = True

_database = os.environ.get("DATABASE", "earnorm_example_django")
_redis = os.environ.get("REDIS_URL")
EARNORM: dict[str, Any] = {
    "mongo_uri": os.environ.get("MONGO_URI")
    or os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017"),
    "database": _database,
    "plugins": ["security", "audit", "cache", "pool"],
    "max_pool_size": 20,
    "server_timeout": 3,
    "client_options": {"appname": _database},
    "cache": {"redis_url": _redis} if _redis else {},
}
