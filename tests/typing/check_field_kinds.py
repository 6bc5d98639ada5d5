"""What type checkers infer from each kind of field; run by mypy --strict and pyright, never executed."""

import datetime
import decimal
import enum
import ipaddress
import uuid
from typing import Annotated, Any, Unpack, assert_type

import pydantic

from earnorm import (
    UUID,
    BaseModel,
    Color,
    Date,
    DateTime,
    Decimal,
    Dict,
    Domain,
    Duration,
    Embedded,
    EmbeddedModel,
    Enum,
    Field,
    File,
    Geo,
    Geometry,
    Int,
    IPAddress,
    LineString,
    List,
    Money,
    MoneyValue,
    MultiPolygon,
    Phone,
    Point,
    Polygon,
    Set,
    Slug,
    StoredFile,
    String,
    Time,
    Vector,
)
from earnorm.fields import N, ValueOptions


class Size(enum.Enum):
    SMALL = "s"


class Percent(Field[float, N]):
    """The field of docs/fields.md."""

    operand_types = (int, float)

    def annotation(self) -> Any:
        return Annotated[float, pydantic.Field(ge=0, le=100)]


class Code(Field[str, N]):
    """A field with an option of its own, and all those of its base."""

    def __init__(self, *, length: int = 8, **options: Unpack[ValueOptions[str, N]]) -> None:
        super(Code, self).__init__(**options)  # noqa: UP008 # as docs/fields.md says
        self.length = length


class Tag(Code[N]):
    """One that derives from it, and from nothing of EarnORM's itself."""

    def __init__(self, *, prefix: str = "", **options: Unpack[ValueOptions[str, N]]) -> None:
        options.setdefault("unique", True)
        super(Tag, self).__init__(length=4, **options)  # noqa: UP008
        self.prefix = prefix


class Coded(BaseModel):
    code = Code(required=True, length=4)
    unset = Code(default="A", validators=[str.upper])
    tag = Tag(prefix="a", required=True, default=lambda: "b", index=True)
    old = Tag(required=False)


def options_of_ones_own(coded: Coded) -> None:
    assert_type(coded.code, str)
    assert_type(coded.unset, str | None)
    assert_type(coded.tag, str)
    assert_type(coded.old, str | None)
    assert_type(Coded.tag.prefix, str)
    Code(lenght=4)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Code(length="4")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Code(default=4)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Tag(required="yes")  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
    Code(choices=["a"])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


class Line(EmbeddedModel):
    sku = String(required=True)


class Product(BaseModel):
    slug = Slug(required=True, unicode=True)
    code = String(case="upper", sparse=True)
    phone = Phone(country="84")
    color = Color()
    size = Enum(Size, required=True)
    old_size = Enum(Size, default=Size.SMALL)
    weight = Decimal(decimal_places=2, rounding="ROUND_HALF_UP")
    price = Money(required=True, currency="EUR")
    old_price = Money()
    opens = Time(required=True)
    lasts = Duration()
    created_at = DateTime(auto_now_add=True, required=True)
    changed_on = Date(auto_now=True)
    ip = IPAddress(required=True)
    tags = Set(String(), required=True)
    days = Set(Date())
    scores = Dict(Int(), required=True)
    by_number = Dict(Duration(), keys=Int(), required=True)
    by_size = Dict(keys=Enum(Size))
    by_id = Dict(String(), keys=UUID())
    lines = List(Embedded(Line), required=True)
    place = Point(required=True)
    way = LineString()
    area = Polygon()
    areas = MultiPolygon()
    shape = Geo(kinds=["Point", "Polygon"])
    vector = Vector(3, required=True)
    picture = File(content_types=["image/*"])
    share = Percent(required=True)
    part = Percent()


def values(product: Product) -> None:
    assert_type(product.slug, str)
    assert_type(product.code, str | None)
    assert_type(product.phone, str | None)
    assert_type(product.color, str | None)
    assert_type(product.size, Size)
    assert_type(product.old_size, Size | None)
    assert_type(product.weight, decimal.Decimal | None)
    assert_type(product.price, MoneyValue)
    assert_type(product.price.amount, decimal.Decimal)
    assert_type(product.price + product.price, MoneyValue)
    assert_type(product.old_price, MoneyValue | None)
    assert_type(product.opens, datetime.time)
    assert_type(product.lasts, datetime.timedelta | None)
    assert_type(product.created_at, datetime.datetime)
    assert_type(product.changed_on, datetime.date | None)
    assert_type(product.ip, ipaddress.IPv4Address | ipaddress.IPv6Address)
    assert_type(product.tags, set[str])
    assert_type(product.days, set[datetime.date] | None)
    assert_type(product.scores, dict[str, int])
    assert_type(product.by_number, dict[int, datetime.timedelta])
    assert_type(product.by_size, dict[Size, Any] | None)
    assert_type(product.by_id, dict[uuid.UUID, str] | None)
    assert_type(product.lines, list[Line])
    assert_type(product.place, Geometry)
    assert_type(product.way, Geometry | None)
    assert_type(product.area, Geometry | None)
    assert_type(product.areas, Geometry | None)
    assert_type(product.shape, Geometry | None)
    assert_type(product.vector, list[float])
    assert_type(product.picture, StoredFile)
    assert_type(product.share, float)
    assert_type(product.part, float | None)


def conditions() -> None:
    assert_type(Product.price.amount > decimal.Decimal(20), Domain)
    assert_type(Product.price.currency == "EUR", Domain)
    assert_type(Product.picture.length > 1000, Domain)
    assert_type(Product.ip.in_network("10.0.0.0/8"), Domain)
    assert_type(Product.size == Size.SMALL, Domain)
    assert_type(Product.size.in_([Size.SMALL]), Domain)
    assert_type(Product.share > 3, Domain)


async def files(product: Product) -> None:
    assert_type(await product.picture.write(b"x"), StoredFile)
    assert_type(await product.picture.read(), bytes)
    async for chunk in product.picture:
        assert_type(chunk, bytes)
    async with product.picture.open() as reader:
        assert_type(await reader.read(3), bytes)


def refused(product: Product) -> None:
    product.price = "12"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] # the checkers must refuse it
    product.size = "s"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] # the checkers must refuse it
    product.tags = ["a"]  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] # the checkers must refuse it


class Priced(BaseModel):
    _id = String(required=True)

    price = Decimal(required=True, default=0)
    cost = Decimal()


class Numbered(BaseModel):
    _id = UUID(required=True)


async def whole_numbers_are_decimals(priced: Priced) -> None:
    assert_type(Priced.price >= 3, Domain)
    assert_type((Priced.cost < 3) & (Priced.price > decimal.Decimal("1.5")), Domain)
    assert_type(Priced.price.in_([1, decimal.Decimal(2)]), Domain)
    assert_type(priced.price, decimal.Decimal)
    priced.price = 3
    priced.cost = None
    await priced.write(Priced.price.to(3) | Priced.cost.to(None))
    assert_type(priced.id, str)
    Priced(_id="a", price=3)
