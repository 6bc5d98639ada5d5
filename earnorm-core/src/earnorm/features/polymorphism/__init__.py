"""Several classes in one collection, distinguished by a discriminator.

Attached by ``register_reading`` (the class of each record) and by two layers, which restrict
operations and pass them to the classes of the records. Builds on the extension of models in
``model/``.
"""
