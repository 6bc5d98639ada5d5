"""``_parent_store``: the paths of trees."""
