"""Several classes in one collection, told apart by a discriminator.

Attached by ``register_reading`` (the class of each record) and by two layers that narrow operations and hand them
on. Builds on the extension of models in ``model/``.
"""
