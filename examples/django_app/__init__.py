"""A help desk in Django: ``python -m examples.django_app`` makes its users, and serves it."""
