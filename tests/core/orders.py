"""Models whose stored fields depend on each other, across every kind of relation."""

from __future__ import annotations

from typing import Any

from earnorm import (
    BaseModel,
    Float,
    Int,
    Many2many,
    Many2one,
    One2many,
    String,
    depends,
)
from earnorm.domain import DomainSource


class Country(BaseModel):
    _name = "calc.country"

    code = String(db_name="c")
    vat = Int(default=0)


class Partner(BaseModel):
    _name = "calc.partner"

    name = String()
    country_id = Many2one(Country, db_name="land")
    order_ids = One2many("calc.order", "partner_id")
    spent = Int(compute="_compute_spent", store=True)
    vat = Int(related="country_id.vat")

    @depends("order_ids.total")
    def _compute_spent(self) -> int:
        return sum(order.total or 0 for order in self.order_ids)


class Label(BaseModel):
    _name = "calc.label"

    weight = Int(default=1)
    order_ids = Many2many("calc.order", inverse="label_ids")
    uses = Int(compute="_compute_uses", store=True, db_name="u")

    @depends("order_ids")
    def _compute_uses(self) -> int:
        return len(self.order_ids)


class Order(BaseModel):
    _name = "calc.order"

    state = String(default="draft")
    partner_id = Many2one(Partner)
    label_ids = Many2many(Label)
    line_ids = One2many("calc.line", "order_id")
    fee = Int(default=0)
    net = Int(compute="_compute_net", store=True, required=True)
    total = Int(compute="_compute_total", store=True, db_name="t")
    weight = Int(compute="_compute_weight", store=True)
    code = String(related="partner_id.country_id.code", store=True)
    per_line = Float(compute="_compute_per_line")
    country_id = Many2one(Country, related="partner_id.country_id")
    gross = Int(compute="_compute_gross", search="_search_gross", inverse="_set_gross")

    @depends("line_ids.amount")
    def _compute_net(self) -> int:
        return sum(line.amount or 0 for line in self.line_ids)

    @depends("net", "fee", "partner_id.vat")
    async def _compute_total(self) -> int:
        vat = self.partner_id.vat or 0 if self.partner_id is not None else 0
        return (self.net + (self.fee or 0)) * (100 + vat)

    @depends("label_ids.weight")
    def _compute_weight(self) -> int:
        return sum(label.weight or 0 for label in self.label_ids)

    @depends("net", "line_ids")
    def _compute_per_line(self) -> float:
        return self.net / len(self.line_ids)

    @depends("fee")
    def _compute_gross(self) -> int:
        return (self.fee or 0) * 2

    @classmethod
    def _search_gross(cls, operator: str, value: Any) -> DomainSource:
        return [("fee", operator, value / 2)]

    def _set_gross(self, value: int) -> None:
        self.fee = value // 2


class Line(BaseModel):
    _name = "calc.line"

    order_id = Many2one(Order, db_name="o")
    price = Int(default=1, db_name="p")
    qty = Int(default=1)
    note = String()
    amount = Int(compute="_compute_amount", store=True, db_name="a")

    @depends("price", "qty")
    def _compute_amount(self) -> int:
        return (self.price or 0) * (self.qty or 0)


async def from_scratch() -> dict[str, list[tuple[Any, ...]]]:
    """Every stored computed value, computed here in plain Python from what is not computed."""
    countries = {c.pk: c for c in await Country.search()}
    partners = {p.pk: p.__dict__ for p in await Partner.search()}
    orders = {o.pk: o.__dict__ for o in await Order.search()}
    labels = {each.pk: each.weight for each in await Label.search()}
    lines = [each.__dict__ for each in await Line.search()]
    amount = {
        each["_id"]: (each.get("price", 1) or 0) * (each.get("qty", 1) or 0) for each in lines
    }
    found: dict[str, list[tuple[Any, ...]]] = {"line": list(amount.items())}
    total: dict[Any, int] = {}
    found["order"] = []
    for pk, order in orders.items():
        net = sum(amount[each["_id"]] for each in lines if each.get("order_id") == pk)
        partner = partners.get(order.get("partner_id"))
        country = countries.get(partner.get("country_id")) if partner is not None else None
        vat = (country.vat or 0) if country is not None else 0
        total[pk] = (net + (order.get("fee", 0) or 0)) * (100 + vat)
        weight = sum(labels.get(each) or 0 for each in order.get("label_ids") or ())
        code = country.code if country is not None else None
        found["order"].append((pk, net, total[pk], weight, code))
    found["partner"] = [
        (pk, sum(total[o] for o, order in orders.items() if order.get("partner_id") == pk))
        for pk in partners
    ]
    found["label"] = [
        (pk, sum(pk in (order.get("label_ids") or ()) for order in orders.values()))
        for pk in labels
    ]
    return found


async def as_stored() -> dict[str, list[tuple[Any, ...]]]:
    """The same, as the database has it."""
    return {
        "line": [(r.pk, r.__dict__.get("amount")) for r in await Line.search()],
        "order": [
            (r.pk, *(r.__dict__.get(n) for n in ("net", "total", "weight", "code")))
            for r in await Order.search()
        ],
        "partner": [(r.pk, r.__dict__.get("spent")) for r in await Partner.search()],
        "label": [(r.pk, r.__dict__.get("uses")) for r in await Label.search()],
    }
