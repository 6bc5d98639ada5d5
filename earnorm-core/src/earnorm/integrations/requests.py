"""The Env in which a request begins, for every web framework alike. No framework is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earnorm.kernel.environment import Env, find_env

if TYPE_CHECKING:
    from earnorm.application import App


def nobody_in(app: App) -> Env:
    """Return the Env of a request in an App before it is known who has sent it.

    A test may be in a transaction or a session around the request, which holds; who acts there does
    not act in the request.
    """
    env = find_env()
    if env is None or env.app is not app:
        env = app.env
    return env.replace(principal=None, context={}, system=False, reason="", _block=None)
