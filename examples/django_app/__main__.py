"""Makes the tables and the users, and serves the help desk: ``python -m examples.django_app [port]``."""

import asyncio
import sys

import django
from hypercorn.asyncio import serve
from hypercorn.config import Config

from examples.django_app import users
from examples.django_app.asgi import application


def main() -> None:
    """Serve it until a signal."""
    django.setup()
    users.make()
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else 8000}"]
    config.graceful_timeout = 10
    asyncio.run(serve(application, config))


if __name__ == "__main__":
    main()
