"""The settings in ``init(..., cache={...})``."""

from __future__ import annotations

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, field_validator

from earnorm_cache.connecting import Address


class CacheSettings(BaseModel):
    """The settings of the cache of one App.

    Attributes:
        max_entries: The most records kept, over all models; beyond it, one that is seldom asked for
            is dropped.
        memory: The most memory for the kept records, such as ``"64MiB"``.
        default_ttl: Seconds after which a kept record is read from the database again. It limits the age of
            a value that another process has changed.
        redis_url: The address of the Redis that all processes of this database share, such as
            ``redis://localhost:6379/0`` (also ``rediss://``, ``unix://``, ``redis+cluster://`` and
            ``redis+sentinel://``); None keeps records in this process alone.
        required: The App does not start while Redis is away; else it starts with a warning, and works
            without Redis until that is there.
        namespace: Tells the keys of this database from those of others in the same Redis; the
            database's name by default. Several deployments with databases of one name need it.
        window: Seconds after the last word of Redis for which the memory of this process is trusted.
        redis_timeout: Seconds that Redis has for an answer; then the database is asked.
        queries: The results of searches by other conditions, of counts and of groups are kept as well; a
            query says otherwise with ``uncached()``, and without this setting with ``cached()``.
        outside_writes: Others write to the database, too (the shell, programs that are not EarnORM's), so its
            change stream is followed; False says that nobody does.
        models: Names of the only models that are cached; None means all. The App does not start if there
            is none of such a name. A model's own
            ``_cache`` has precedence over this list, and over ``default_ttl``, ``queries`` and
            ``negative_ttl``.
    """

    # The address may have a password in it, also a mistyped one.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    max_entries: int = Field(default=100_000, ge=1)
    memory: ByteSize = Field(default=ByteSize(64 * 2**20), ge=2**10)
    default_ttl: float = Field(default=60.0, ge=0.001, allow_inf_nan=False)
    queries: bool = False
    negative_ttl: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    redis_url: SecretStr | None = None
    required: bool = False
    namespace: str | None = Field(default=None, min_length=1, max_length=200)
    window: float = Field(default=0.25, gt=0.1, le=60, allow_inf_nan=False)
    redis_timeout: float = Field(default=0.1, gt=0, le=60, allow_inf_nan=False)
    outside_writes: bool = True
    models: list[str] | None = None

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            Address.parse(url.get_secret_value())
        return url
