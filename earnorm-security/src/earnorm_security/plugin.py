"""The plugin: it checks each model's declarations when the App first uses it, and makes the
layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, cast

import pydantic

from earnorm import App, BaseModel, ConfigurationError, Env, Principal
from earnorm.plugin import (
    Finding,
    Layer,
    Middleware,
    ModelView,
    Operation,
    OperationName,
    Reading,
    Stage,
    Step,
    Verdict,
    hookimpl,
    in_transaction_if,
    name_of,
    nearest,
)
from earnorm_security.afterwards import steps_afterwards
from earnorm_security.command import security_command
from earnorm_security.declarations import RIGHTS, Right
from earnorm_security.enforcement import layer_for
from earnorm_security.explaining import explained
from earnorm_security.field_access import check_values
from earnorm_security.field_rights import FIELD_RIGHTS, FieldPolicies
from earnorm_security.judging import judge
from earnorm_security.policy import RIGHT_OF, Policy
from earnorm_security.reporting import ModelReport, models_of, open_models, reported
from earnorm_security.roles import Roles
from earnorm_security.secrets import attaching as secrets
from earnorm_security.secrets.encryption import Encryption
from earnorm_security.settings import SecuritySettings
from earnorm_security.strict import needs_transaction, steps_of_strict_rules

_RIGHTS: Final[Mapping[str, Right]] = {**RIGHT_OF, **{right: right for right in RIGHTS}}


class Security:
    """The service ``app.services["security"]``: tells what a principal may do, without doing it."""

    def __init__(self, app: App, settings: SecuritySettings) -> None:
        self._app = app
        self._settings = settings
        self._roles = Roles(settings.roles)
        self.fields = FieldPolicies(app, settings.field_rights, self._roles)
        self._policies: dict[type[BaseModel], Policy] = {}
        self._being_read: set[type[BaseModel]] = set()

    def can(
        self, env: Env, model: type[BaseModel] | str, operation: str, *, field: str | None = None
    ) -> bool:
        """Return whether the principal may do this with some record of the model, judged by roles.

        The rules decide which records, so an operation may still find or change none.

        Args:
            env: The Env of the principal; ``earnorm.current_env()`` is the acting one.
            model: A model's class or name.
            operation: A right (read, write, create, unlink) or an operation (search, count …); for a
                field read, write, filter, order or aggregate.
            field: The name of a field; None asks about the model alone.

        Raises:
            ConfigurationError: There is no such operation, or no such field.
        """
        if field is not None:
            return self._can_use(env, model, operation, field)
        right = _RIGHTS.get(operation)
        if right is None:
            known = ", ".join(sorted(_RIGHTS))
            raise ConfigurationError(f"no operation {operation!r}; known: {known}")
        name = model if isinstance(model, str) else name_of(model)
        return self.policy(self._app.model(name)).can(env, right)

    def report(self, *models: str) -> list[ModelReport]:
        """Return what is granted on models of the App; no function of a rule is called.

        Args:
            *models: Their names; without any, all models of the App, by name.

        Raises:
            ConfigurationError: There is no such model, or one cannot be used.
        """
        app = self._app
        views = [ModelView(app.model(name)) for name in models] or models_of(app)
        return [reported(view, self.policy(view.cls)) for view in views]

    def _can_use(self, env: Env, model: type[BaseModel] | str, operation: str, field: str) -> bool:
        """Return whether the principal may use a field of records that it may read or write."""
        cls = self._app.model(model if isinstance(model, str) else name_of(model))
        if operation not in FIELD_RIGHTS:
            raise ConfigurationError(
                f"no right {operation!r} on a field; known: {', '.join(FIELD_RIGHTS)}"
            )
        known = ModelView(cls).fields
        if field not in known:
            raise ConfigurationError(f"no field {field!r}{nearest(field, known)}")
        if env.system:
            return True
        fields = self.fields.of(cls)
        is_granted = fields is None or field not in fields.of(env).lacking[operation]
        return is_granted and self.can(env, cls, "write" if operation == "write" else "read")

    def policy(self, model: type[BaseModel]) -> Policy:
        """Return the checked declarations of a model in this App."""
        policy = self._policies.get(model)
        if policy is None:
            self._being_read.add(model)
            try:
                fields = self.fields.of(model)
                policy = Policy(self._app, model, self._settings, self.policy, self._roles, fields)
            finally:
                self._being_read.discard(model)
            self._policies[model] = policy
        return policy

    def unnamed(self, view: ModelView, env: Env) -> frozenset[str]:
        """Return the fields of a model that no error may name to who acts.

        They are all fields of a model of which he may neither read nor create records, and those
        fields of another one for which he has no right at all.
        """
        if self._being_read:
            return frozenset()  # the error is about a declaration, which who wrote it reads
        policy = self.policy(view.cls)
        if policy.missing(env, "read") and policy.missing(env, "create"):
            return frozenset(view.fields)
        return frozenset() if policy.fields is None else policy.fields.of(env).unusable

    def forget(self, model: type[BaseModel]) -> None:
        """Drop what is kept of a model and of the classes made of it."""
        for cls in [cls for cls in self._policies if issubclass(cls, model)]:
            del self._policies[cls]
        self.fields.forget()

    def forget_all(self) -> None:
        """Drop what is kept of all models, to make it again."""
        self._policies.clear()
        self.fields.forget()


class SecurityPlugin:
    """Rights on models and rules on records.

    ``Layer.SECURITY`` enforces them on every operation, and ``Stage.JUDGE`` on the final values.

    Args:
        settings: See :class:`SecuritySettings`.
    """

    api = 1

    def __init__(self, settings: SecuritySettings | None = None) -> None:
        self._settings = settings or SecuritySettings()

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the model of the settings."""
        return SecuritySettings

    @hookimpl
    def resolve_principal(self, user: object) -> Principal | None:
        """Ask the setting ``principal_resolver``.

        Raises:
            ConfigurationError: It returned something else than a Principal or None.
        """
        resolver = self._settings.principal_resolver
        principal: object = None if resolver is None else resolver(user)
        if not isinstance(principal, Principal | None):
            raise ConfigurationError(
                f"security: principal_resolver returns a Principal or None, not "
                f"{type(principal).__name__}"
            )
        return principal

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Offer ``app.services["security"]``."""
        # Each start makes a new service, because a restarted App may have other extensions. The App
        # holds it, since several Apps may share one plugin instance.
        return {
            "security": Security(app, self._settings),
            "encryption": Encryption(secrets.provider(app, self._settings.keys)),
        }

    @hookimpl
    async def startup(self, app: App) -> None:
        """Fetch the keys of encrypted fields; where they cannot be had, these fields are refused."""
        await secrets.start(app)

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the field that nobody hashes or encrypts without this plugin."""
        return secrets.needing(model)

    @staticmethod
    @hookimpl
    def register_commands() -> Mapping[str, Callable[..., object]]:
        """Offer ``earnorm security …``."""
        return {"security": security_command}

    @hookimpl
    def diagnose(self, app: App) -> Iterable[Finding]:
        """Tell doctor which models are open."""
        return open_models(_service_of(app).report())

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Check the model's declarations, so that a mistake in them stops the start."""
        service, view = _service_of(app), ModelView(model)
        if service.fields.has_grown(view):
            service.forget_all()
            app.recompose()
        service.policy(model)
        secrets.check(app, view)

    @hookimpl
    def model_forgotten(self, app: App, model: type[BaseModel]) -> None:
        """Drop the policies of a model."""
        _service_of(app).forget(model)

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return a layer for the operation; none if the model allows everything to everybody."""
        policy = _service_of(app).policy(model)
        own = self._own_layers(policy, operation)
        return (*own, *secrets.layers(app, model, operation))

    @staticmethod
    def _own_layers(policy: Policy, operation: OperationName) -> Iterable[tuple[int, Middleware]]:
        if policy.is_void:
            return ()
        layer = layer_for(policy, operation)
        if operation in ("create", "write", "unlink") and policy.has_rules:
            needs = in_transaction_if(partial(needs_transaction, policy))
            return (Layer.TRANSACTION, needs), (Layer.SECURITY, layer)
        return ((Layer.SECURITY, layer),)

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return what binds the documents of change events, and which fields are withheld."""
        fields, bound = _service_of(app).fields.withholding(model.cls), secrets.reading(app, model)
        if fields is None:
            return bound
        return Reading(withholding=fields) if bound is None else replace(bound, withholding=fields)

    @hookimpl
    def hides_records(self, app: App, model: ModelView) -> Callable[[Env], bool] | None:
        """Return whether rights or rules hide records; None if everybody may read all of them."""
        policy = _service_of(app).policy(model.cls)
        return None if policy.hides_nothing else policy.hides

    @hookimpl
    def unnamed_fields(self, app: App, model: ModelView) -> Callable[[Env], frozenset[str]]:
        """Return the function that tells which fields somebody may not use in any way."""
        return partial(_service_of(app).unnamed, model)

    @hookimpl
    async def explain_access(self, op: Operation) -> Verdict:
        """Return which rights and rules allow or refuse an operation."""
        return await explained(_service_of(op.app).policy(op.model), op)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps that check which values are set, and that judge final values."""
        policy = _service_of(app).policy(model.cls)
        steps: list[Step] = []
        if policy.fields is not None:
            check = partial(check_values, policy.fields)
            names = policy.fields.restricted
            steps.append(Step(Stage.CLASS, "field rights", check, names=names, in_parts=True))
        if policy.has_rules:
            steps += [Step(Stage.JUDGE, "security", judge), *steps_afterwards()]
            if policy.has_strict_rules:
                steps += steps_of_strict_rules()
        return steps


def _service_of(app: App) -> Security:
    return cast("Security", app.services["security"])
