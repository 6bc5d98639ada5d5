"""An operation and its way: layers, hooks, plugins, Env, App, transactions. It knows no feature by name."""
