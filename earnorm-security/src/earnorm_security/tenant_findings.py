"""Tells ``earnorm doctor`` what is missing around the tenants of an App's models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from earnorm import App, EarnORMError
from earnorm.plugin import Finding, Links, ModelView
from earnorm_security.reporting import listed
from earnorm_security.tenants import FIELD


def findings_about_tenants(app: App, views: Sequence[ModelView]) -> Iterator[Finding]:
    """Yield what is missing: an index that begins with the tenant, a tenant of records that link to some.

    Args:
        app: The App.
        views: Its models.
    """
    with_tenants = {
        view.name: view for view in views if view.attribute("_tenant_field") is not None
    }
    if not with_tenants:
        return
    slow = [view.name for view in with_tenants.values() if not _is_indexed(app, view)]
    if slow:
        yield Finding(
            "warning",
            f"no index begins with the tenant of {listed(slow)}, and each search of a user is by it",
            f"give the field of {FIELD} index=True, or begin an index of _indexes with it",
        )
    others = [v for v in views if v.name not in with_tenants and v.bookkeeping is None]
    linking = [view.name for view in others if _links_to(app, view, with_tenants)]
    if linking:
        yield Finding(
            "warning",
            f"records of {listed(linking)} link to records of tenants and belong to none themselves",
            f"give these models {FIELD}, or rules: who reads them learns of other tenants' records",
        )


def _is_indexed(app: App, view: ModelView) -> bool:
    key = view.fields[view.attribute("_tenant_field")].db_name
    try:
        return any(spec.keys[0][0] == key for spec in app.indexes.declared(view.cls))
    except EarnORMError:
        return True  # the index's own error says what is wrong


def _links_to(app: App, view: ModelView, models: Iterable[str]) -> bool:
    return any(
        not set(models).isdisjoint(link.names()) for link in Links(app.bind(view.cls)).declared
    )
