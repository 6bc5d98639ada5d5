"""``earnorm security …``: keys and their rotation."""

from __future__ import annotations

from earnorm import App, ConfigurationError
from earnorm_security.secrets.keys import new_key
from earnorm_security.secrets.rotation import rotate_all


async def security_command(
    app: App,
    action: str,
    model: str | None = None,
    batch: int = 1000,
) -> None:
    """Encrypt anew what other keys than the first one have encrypted (rotate), or make a key (new-key).

    rotate reads every record of the models with encrypted fields, prints its progress, and may be
    broken off and begun again. When it says that nothing is left, the older keys can be removed.
    """
    if action == "new-key":
        print(new_key())
        return
    if action != "rotate":
        raise ConfigurationError(f"security: {action!r} is neither 'rotate' nor 'new-key'")
    await rotate_all(app, model, batch, print)
