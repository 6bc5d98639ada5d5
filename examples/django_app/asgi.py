"""The help desk for an ASGI server: ``hypercorn examples.django_app.asgi:application``."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")

from django.core.asgi import get_asgi_application

from earnorm.integrations.django import asgi

application = asgi(get_asgi_application())
