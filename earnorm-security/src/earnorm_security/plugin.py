"""The plugin: it checks each model's declarations when the App first uses it, and makes the
layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import pydantic

from earnorm import App, BaseModel, ConfigurationError, Env, Principal
from earnorm.plugin import (
    Attribute,
    Call,
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
from earnorm_security import counters
from earnorm_security.afterwards import steps_afterwards
from earnorm_security.command import security_command
from earnorm_security.declarations import RIGHTS, Right
from earnorm_security.enforcement import layer_for
from earnorm_security.explaining import explained
from earnorm_security.field_access import check_values
from earnorm_security.field_rights import FIELD_RIGHTS, FieldPolicies
from earnorm_security.judging import judge
from earnorm_security.policy import RIGHT_OF, Policy
from earnorm_security.reporting import (
    ModelReport,
    models_of,
    of_unknown,
    open_models,
    reported,
    stored_policies,
)
from earnorm_security.roles import Roles
from earnorm_security.secrets import attaching as secrets
from earnorm_security.secrets.encryption import Encryption
from earnorm_security.settings import SecuritySettings
from earnorm_security.strict import needs_transaction, steps_of_strict_rules
from earnorm_security.tenant_findings import findings_about_tenants
from earnorm_security.tenants import FIELD as TENANT_FIELD
from earnorm_security.tenants import Tenants, attributes_of_tenants, tenants_of

if TYPE_CHECKING:
    from earnorm_security.stored.current import CurrentPolicies
    from earnorm_security.stored.knowing import Knowledge
    from earnorm_security.stored.policies import StoredPart

_RIGHTS: Final[Mapping[str, Right]] = {**RIGHT_OF, **{right: right for right in RIGHTS}}


class Security:
    """The service ``app.services["security"]``: tells what a principal may do, without doing it."""

    def __init__(self, app: App, settings: SecuritySettings) -> None:
        self._app = app
        self._settings = settings
        self._roles = Roles(settings.roles)
        self.knowledge: Knowledge | None = None
        """Knows the stored roles and policies; None without the settings for them."""
        self.current: CurrentPolicies | None = None
        """The policies with the stored ones; None without ``stored_policies``."""
        if settings.stored_roles or settings.stored_policies:
            self._open_stored()
        self.fields = FieldPolicies(app, settings.field_rights, self._roles)
        self._policies: dict[type[BaseModel], Policy] = {}
        self._being_read: set[type[BaseModel]] = set()

    def _open_stored(self) -> None:
        """Load what reads stored roles and policies; an App without them does not."""
        from earnorm_security.stored.current import CurrentPolicies
        from earnorm_security.stored.knowing import Knowledge, StoredRoles

        settings = self._settings
        self.knowledge = Knowledge(
            self._app,
            settings.roles,
            has_roles=settings.stored_roles,
            has_policies=settings.stored_policies,
        )
        self._roles = StoredRoles(settings.roles, self.knowledge)
        if settings.stored_policies:
            self.current = CurrentPolicies(self._app, self.knowledge, self._made)

    def hear_edits(self) -> None:
        """Hear at once of what other processes edit, where a plugin of this App tells it."""
        if self.knowledge is not None:
            from earnorm_security.stored.hearing import hear_edits

            hear_edits(self._app, self.knowledge.forget)

    async def may(
        self, env: Env, model: type[BaseModel] | str, operation: str, *, field: str | None = None
    ) -> bool:
        """Return what ``can()`` returns, by the stored roles and policies of this moment.

        Args:
            env: As for ``can()``, like the arguments that follow.
            model: A model's class or name.
            operation: A right or an operation.
            field: The name of a field; None asks about the model alone.

        Raises:
            ConfigurationError: There is no such operation, or no such field.
        """
        if self.knowledge is None:
            return self._can(env, model, operation, field)
        async with self.knowledge.knowing(env):
            return self._can(env, model, operation, field)

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
            ConfigurationError: There is no such operation, or no such field; or roles or policies are
                stored, which only ``await may(...)`` knows.
        """
        if self.knowledge is not None:
            raise ConfigurationError(
                "security: can() does not read stored roles and policies; 'await security.may(...)' does"
            ).coded("stored_unread")
        return self._can(env, model, operation, field)

    def _can(
        self, env: Env, model: type[BaseModel] | str, operation: str, field: str | None
    ) -> bool:
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
            ConfigurationError: There is no such model, or one cannot be used; or policies are stored,
                which only ``await full_report(...)`` knows.
        """
        return self._report(models, self.policy)

    async def full_report(self, *models: str) -> list[ModelReport]:
        """Return what ``report()`` returns, with the stored policies of this moment.

        Args:
            *models: As for ``report()``. Without any, stored policies about models that the App
                does not have are among it, too.

        Raises:
            ConfigurationError: There is no such model, or one cannot be used.
        """
        if self.knowledge is None:
            return self.report(*models)
        async with self.knowledge.knowing(self._app.env) as known:
            reports = self.report(*models)
            there = {report.model for report in reports}
            unknown = [] if models else sorted(known.policies.models() - there)
            return [*reports, *(of_unknown(name, known.policies.of(name)) for name in unknown)]

    def declared_report(self) -> list[ModelReport]:
        """Return what is granted on all models in Python; the database is not asked."""
        return self._report((), self.declared)

    def _report(
        self, models: Iterable[str], policy: Callable[[type[BaseModel]], Policy]
    ) -> list[ModelReport]:
        app = self._app
        views = [ModelView(app.model(name)) for name in models] or models_of(app)
        return [reported(view, policy(view.cls)) for view in views]

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
        right = "write" if operation == "write" else "read"
        return is_granted and self._can(env, cls, right, None)

    def policy(self, model: type[BaseModel]) -> Policy:
        """Return the policy of a model in effect: what it declares, and what is stored.

        Raises:
            ConfigurationError: Policies are stored, and this is no part of an operation.
        """
        return self.declared(model) if self.current is None else self.current.of(model)

    def declared(self, model: type[BaseModel]) -> Policy:
        """Return the checked declarations of a model in this App, without what is stored."""
        policy = self._policies.get(model)
        if policy is None:
            policy = self._policies[model] = self._made(model)
        return policy

    def tenants(self) -> Iterator[Tenants]:
        """Yield the tenants of each model of the App that has some."""
        for model in self._app.usable_models():
            if ModelView(model).attribute(TENANT_FIELD) is None:
                continue
            with suppress(ConfigurationError):  # such a model raises it when it is used
                tenants = self.declared(model).tenants
                if tenants is not None:
                    yield tenants

    def _made(
        self, model: type[BaseModel], stored: Callable[[Collection[str]], StoredPart] | None = None
    ) -> Policy:
        app, settings = self._app, self._settings
        self._being_read.add(model)
        try:
            fields = self.fields.of(model)
            tenants = tenants_of(app, ModelView(model))
            others = self.declared if stored is None else self.policy
            return Policy(app, model, settings, others, self._roles, fields, tenants, stored)
        finally:
            self._being_read.discard(model)

    def unnamed(self, view: ModelView, env: Env) -> frozenset[str]:
        """Return the fields of a model that no error may name to who acts.

        They are all fields of a model of which he may neither read nor create records, and those
        fields of another one for which he has no right at all.
        """
        if self._being_read:
            return frozenset()  # the error is about a declaration, which who wrote it reads
        if self.knowledge is not None and not self.knowledge.is_known(env):
            return frozenset(view.fields)
        policy = self.policy(view.cls)
        if policy.missing(env, "read") and policy.missing(env, "create"):
            return frozenset(view.fields)
        return frozenset() if policy.fields is None else policy.fields.of(env).unusable

    def forget(self, model: type[BaseModel]) -> None:
        """Drop what is kept of a model and of the classes made of it."""
        for cls in [cls for cls in self._policies if issubclass(cls, model)]:
            del self._policies[cls]
        if self.current is not None:
            self.current.forget(model)
        self.fields.forget()

    def forget_all(self) -> None:
        """Drop what is kept of all models, to make it again."""
        self._policies.clear()
        if self.current is not None:
            self.current.forget_all()
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

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        """Return the class attributes about tenants, which scope unique indexes and sequences."""
        return attributes_of_tenants()

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
    def register_models(self) -> Iterable[type[BaseModel]]:
        """Return the models of stored roles and policies, where the settings ask for them."""
        settings = self._settings
        if not (settings.stored_roles or settings.stored_policies):
            return []
        from earnorm_security.stored import policies, roles, versions

        brought: list[type[BaseModel]] = [versions.SecurityState]
        if settings.stored_roles:
            brought += [roles.StoredRole, roles.RoleAssignment]
        if settings.stored_policies:
            brought += [policies.StoredPolicy, policies.PolicyVersion]
        return brought

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
        """Fetch the keys of encrypted fields, and begin to hear of edits of stored roles and policies.

        Where the keys cannot be had, these fields are refused.
        """
        await secrets.start(app)
        app.services.of_type(Security).hear_edits()

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the field that nobody hashes or encrypts without this plugin, or the tenant's."""
        return secrets.needing(model) or (
            TENANT_FIELD if model.attribute("_tenant_field") is not None else None
        )

    @staticmethod
    @hookimpl
    def register_commands() -> Mapping[str, Callable[..., object]]:
        """Offer ``earnorm security …``."""
        return {"security": security_command}

    @hookimpl
    def diagnose(self, app: App) -> Iterable[Finding]:
        """Tell doctor which models are open, and what is missing around tenants."""
        service = _service_of(app)
        return [
            *open_models(service.declared_report()),
            *stored_policies(service.current),
            *findings_about_tenants(app, models_of(app)),
        ]

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Check the model's declarations, so that a mistake in them stops the start."""
        service, view = _service_of(app), ModelView(model)
        if service.fields.has_grown(view):
            service.forget_all()
            app.recompose()
        service.declared(model)
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
        service = _service_of(app)
        own = self._own_layers(service, model, operation)
        of_counters = counters.layers(model, service.tenants)
        return (*own, *secrets.layers(app, model, operation), *of_counters)

    @staticmethod
    def _own_layers(
        service: Security, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        policy, is_write = service.declared(model), operation in ("create", "write", "unlink")
        if service.knowledge is not None:
            from earnorm_security.stored.attaching import layers

            return layers(service.knowledge, service.current, policy, operation)
        if policy.is_void:
            return ()
        if is_write and ModelView(model).bookkeeping == "security":
            return ((Layer.SECURITY, _refuse_uncounted),)
        layer = layer_for(policy, operation)
        if is_write and policy.has_rules:
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
        service = _service_of(app)
        policy = service.declared(model.cls)
        if service.knowledge is not None:
            from earnorm_security.stored.attaching import hiding

            return hiding(service.knowledge, service.current, policy)
        return None if policy.hides_nothing else policy.hides

    @hookimpl
    def unnamed_fields(self, app: App, model: ModelView) -> Callable[[Env], frozenset[str]]:
        """Return the function that tells which fields somebody may not use in any way."""
        return partial(_service_of(app).unnamed, model)

    @hookimpl
    async def explain_access(self, op: Operation) -> Verdict:
        """Return which rights and rules allow or refuse an operation."""
        service = _service_of(op.app)
        if service.knowledge is None:
            return await explained(service.policy(op.model), op)
        async with service.knowledge.knowing(op.env):
            return await explained(service.policy(op.model), op)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps that check which values are set, and that judge final values."""
        service = _service_of(app)
        policy = service.declared(model.cls)
        steps: list[Step] = []
        if policy.fields is not None:
            check = partial(check_values, policy.fields)
            names = policy.fields.restricted
            steps.append(Step(Stage.CLASS, "field rights", check, names=names, in_parts=True))
        if policy.tenants is not None:
            steps += policy.tenants.steps()
        if service.knowledge is not None:
            from earnorm_security.stored import attaching

            steps += attaching.steps(service.knowledge, policy)
        if policy.has_rules or service.current is not None:
            steps += [Step(Stage.JUDGE, "security", judge), *steps_afterwards()]
            if policy.has_strict_rules:
                steps += steps_of_strict_rules()
        return steps


async def _refuse_uncounted(op: Operation, call_next: Call) -> Any:
    """Refuse a write of stored roles or policies in an App that does not count their edits.

    Raises:
        ConfigurationError: Processes with the settings would not notice it.
    """
    raise ConfigurationError(
        f"security: {op.name} of {name_of(op.model)!r} needs stored_roles=True or stored_policies=True "
        f"in this App, too"
    )


def _service_of(app: App) -> Security:
    return cast("Security", app.services["security"])
