"""``earnorm security …``: who may do what, why, and the keys of encrypted fields."""

from __future__ import annotations

import json
from typing import Any

from earnorm import App, ConfigurationError, Principal, act_as, system
from earnorm_security.secrets.keys import new_key
from earnorm_security.secrets.rotation import rotate_all

_REASON = "earnorm security explain"


async def security_command(
    app: App,
    action: str,
    model: str | None = None,
    user: str | None = None,
    role: list[str] | None = None,
    user_model: str | None = None,
    context: list[str] | None = None,
    op: str = "read",
    id: str | None = None,
    as_json: bool = False,
    batch: int = 1000,
) -> None:
    """Tell who may do what and why, and look after the keys of encrypted fields.

    report [--model M] lists what is granted on each model, the open ones first; --as-json prints JSON.

    explain --model M [--user U] [--op write] [--id X] says why U may do this with the model or with one
    record, or may not, and which fields are left out or masked. U has the roles of --role, or is the record with this id of --user-model.
    --context tenant=a sets a value of the context.

    rotate encrypts anew what other keys than the first one have encrypted. It reads every record of the
    models with encrypted fields, prints its progress, and may be broken off and begun again. When it
    says that nothing is left, the older keys can be removed. new-key makes a key.
    """
    if action == "new-key":
        print(new_key())
    elif action == "rotate":
        await rotate_all(app, model, batch, print)
    elif action == "report":
        await _report(app, model, as_json=as_json)
    elif action == "explain":
        await _explain(app, model, user, role, user_model, context, op, id)
    else:
        raise ConfigurationError(
            f"security: {action!r} is none of 'report', 'explain', 'rotate' and 'new-key'"
        )


async def _report(app: App, model: str | None, *, as_json: bool) -> None:
    from earnorm_security.plugin import Security  # the plugin's class offers this command

    security = app.services.of_type(Security)
    reports = await security.full_report(*([] if model is None else [model]))
    if as_json:
        print(json.dumps([report.to_dict() for report in reports], indent=2))
        return
    for report in sorted(reports, key=lambda report: not report.is_open):
        print(*report.lines(), sep="\n")


async def _explain(
    app: App,
    model: str | None,
    user: str | None,
    role: list[str] | None,
    user_model: str | None,
    context: list[str] | None,
    op: str,
    pk: str | None,
) -> None:
    if model is None:
        raise ConfigurationError("security explain: name the model, --model M")
    if user is None and (role or user_model):
        raise ConfigurationError("security explain: whose role or record is it? --user U")
    if role and user_model:
        raise ConfigurationError(
            "security explain: the roles are those of the record, or those of --role; not both"
        )
    with app.activate(), system(reason=_REASON):
        query = app.model(model).search()
        if pk is not None:
            query = query.where([("id", "=", pk)]).with_archived()
        who: Any = None
        if user is not None:
            who = Principal(user, role or ())
        if user_model is not None:
            found = app.model(user_model).search([("id", "=", user)]).with_archived()
            who = (await found).ensure_one()
        if who is None:
            print(await query.why(op))
            return
        with act_as(who, **_values(context)), system(reason=_REASON):
            print(await query.why(op))


def _values(context: list[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in context or ():
        name, equals, value = item.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigurationError(
                "security explain: a value of the context is given as --context name=value"
            )
        values[name] = value
    return values
