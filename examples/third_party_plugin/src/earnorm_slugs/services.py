"""The service of the plugin: ``app.services["slugs"]``."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from earnorm import ConfigurationError, DuplicateKey, RecordSet, system
from earnorm.plugin import ModelView, atomic, current_env, name_of

from earnorm_slugs.fields import AutoSlug
from earnorm_slugs.models import FormerSlug
from earnorm_slugs.naming import first_free, taken_slugs

if TYPE_CHECKING:
    from earnorm.models import BaseModel

    from earnorm_slugs.settings import SlugsSettings

M = TypeVar("M", bound="BaseModel")


class Slugs:
    """Finds records by their slugs, present and former ones, and changes slugs.

    Args:
        settings: The settings of the plugin.
    """

    def __init__(self, settings: SlugsSettings) -> None:
        self._settings = settings

    async def find(self, model: type[M], slug: str, field: str | None = None) -> RecordSet[M]:
        """Return the record with a slug, or with one that it had: a RecordSet of none or one.

        Args:
            model: The model.
            slug: The slug.
            field: The name of the field; None where the model has one only.
        """
        name = _field_of(model, field).name
        found = await model.find_one([(name, "=", slug)])
        if found.exists():
            return found
        with _in_its_own_name():
            former = await FormerSlug.find_one([*_place(model, name), ("slug", "=", slug)])
        return await model.search([("id", "in", former.mapped("record"))])

    async def rename(self, record: BaseModel, slug: str, field: str | None = None) -> None:
        """Give a record another slug; the one that it had leads to it from then on.

        Args:
            record: A stored record.
            slug: A slug, or a text to make one of.
            field: The name of the field; None where the model has one only.

        Raises:
            DuplicateKey: Another record has the slug or had it, or it is reserved.
        """
        model = type(record)
        of = _field_of(model, field)
        new, old = of.slug_of(slug), getattr(record, of.name)
        if new == old:
            return

        async def change() -> None:
            with _in_its_own_name():
                former = await FormerSlug.find_one([*_place(model, of.name), ("slug", "=", new)])
                if new in self._settings.reserved or former.mapped("record") not in (
                    [],
                    [record.id],
                ):
                    raise DuplicateKey(name_of(model), [of.name])
                await former.unlink()
                if old is not None:
                    values = {"model": name_of(model), "field": of.name, "slug": old}
                    await FormerSlug.create({**values, "record": record.id})
            await record.write({of.name: new})

        await atomic(change)

    async def fill(self, model: type[BaseModel]) -> int:
        """Give a slug to each stored record that has none, and return how many there were.

        Args:
            model: The model.
        """
        done = 0
        for field in fields_of(model):
            longest = field.max_length or self._settings.max_length
            async for record in model.search([(field.name, "=", None), (field.source, "!=", None)]):
                base = field.slug_of(getattr(record, field.source))
                taken = await taken_slugs(current_env(), model, field, [base], longest)
                slug = first_free(base, taken | self._settings.reserved, longest)
                await record.write({field.name: slug})
                done += 1
        return done


def _in_its_own_name() -> AbstractContextManager[object]:
    """Read and write former slugs for the plugin, whatever the acting principal may."""
    return system(reason="slugs: the slugs that records had")


def _place(model: type[BaseModel], field: str) -> list[tuple[str, str, str]]:
    return [("model", "=", name_of(model)), ("field", "=", field)]


def fields_of(model: type[BaseModel] | ModelView) -> list[AutoSlug[Any]]:
    """Return the fields of a model with slugs that are made from another field."""
    view = model if isinstance(model, ModelView) else ModelView(model)
    return [field for field in view.fields.values() if isinstance(field, AutoSlug) and field.source]


def _field_of(model: type[BaseModel], name: str | None) -> AutoSlug[Any]:
    fields = {field.name: field for field in fields_of(model)}
    if name is None and len(fields) == 1:
        return next(iter(fields.values()))
    if name not in fields:
        raise ConfigurationError(
            f"{name_of(model)} has no one AutoSlug with a source"
            f"{'' if name is None else f' named {name!r}'}; it has {', '.join(fields) or 'none'}"
        )
    return fields[name]
