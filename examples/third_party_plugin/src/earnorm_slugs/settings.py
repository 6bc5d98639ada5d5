"""The settings of the plugin: the keyword ``slugs`` of an App."""

from __future__ import annotations

import pydantic


class SlugsSettings(pydantic.BaseModel):
    """The settings; an unknown name is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    max_length: int = pydantic.Field(
        default=80,
        ge=8,
        description="The longest slug of a field that does not say its own `max_length`.",
    )
    reserved: frozenset[str] = pydantic.Field(
        default=frozenset({"edit", "new"}),
        description="Words that no slug is, since the application's own pages have them.",
    )
    tries: int = pydantic.Field(
        default=5,
        ge=1,
        description="How often a create is tried while others take the slugs that it chose.",
    )
