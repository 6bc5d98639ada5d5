"""``_parent_store``: the paths of trees, which find all records below one by a range of an index.

Attached by the class attribute ``_parent_store``, by document steps that keep the paths up to date,
and by ``register_reading``, which answers ``child_of``. Such a model needs ``on_delete`` on its
parent field.
"""
