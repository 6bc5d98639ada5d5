"""The main guards of security: what each holds, how it is switched off, and the tests that fail without it.

``EARNORM_GUARD_OFF=NAME`` switches one off for a run of pytest: the conftest of this folder does it.
``mutations.py`` does so with each. Nothing in the packages knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from hypothesis import Phase, settings

from earnorm import Domain
from earnorm.plugin import Operation, ids_of

VARIABLE: Final = "EARNORM_GUARD_OFF"

_SECURITY: Final = "earnorm_security"
_FEATURES: Final = "earnorm.features"


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard that can be switched off.

    Attributes:
        place: The function, as ``module:name`` or ``module:class.name``.
        without: Makes of the function one that lets everything through.
        tests: The tests of this folder that fail without it, as ``file::function``.
    """

    place: str
    without: Callable[[Any], Any]
    tests: tuple[str, ...]

    def found(self) -> object:
        """Return the function."""
        owner, name = self._owner()
        return getattr(owner, name)

    def switch_off(self) -> None:
        """Replace the function, until the process ends."""
        owner, name = self._owner()
        setattr(owner, name, self.without(getattr(owner, name)))

    def _owner(self) -> tuple[object, str]:
        module, _, path = self.place.partition(":")
        owner: object = import_module(module)
        *classes, name = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        return owner, name


def switch_off_named() -> None:
    """Switch the guard off that the environment names."""
    name = os.environ.get(VARIABLE)
    if name:
        GUARDS[name].switch_off()
        # That a law fails is enough: to look for its smallest case takes minutes.
        settings.register_profile(
            "guard off",
            derandomize=True,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
        )
        settings.load_profile("guard off")


# -- what takes the place of a guard --------------------------------------------------------------


def giving(value: object) -> Callable[[Any], Any]:
    """Return a value, whatever is asked."""
    return lambda guard: lambda *args, **kwargs: value


def soon_giving(value: object) -> Callable[[Any], Any]:
    """Return a value when it is awaited."""

    def without(guard: Any) -> Any:
        async def answer(*args: Any, **kwargs: Any) -> object:
            return value

        return answer

    return without


def passing(position: int) -> Callable[[Any], Any]:
    """Return an argument as it is."""
    return lambda guard: lambda *args, **kwargs: args[position]


def soon_passing(position: int) -> Callable[[Any], Any]:
    """Return an argument as it is when it is awaited."""

    def without(guard: Any) -> Any:
        async def answer(*args: Any, **kwargs: Any) -> Any:
            return args[position]

        return answer

    return without


def passing_on(guard: Any) -> Any:
    """Send the operation on as it came."""

    async def layer(self: Any, op: Operation, call_next: Any, *rest: Any) -> Any:
        return await call_next(op)

    return layer


def selecting_as_system(guard: Any) -> Any:
    """Answer conditions about other records with access rules off."""

    def select(bound: Any, op: Operation) -> Any:
        return guard(bound, op.replace(env=op.env.as_system("a guard is off")))

    return select


def capturing_as_system(guard: Any) -> Any:
    """Join a model with access rules off."""

    async def captured(self: Any, model: Any) -> Any:
        own, self._env = self._env, self._env.as_system("a guard is off")
        try:
            return await guard(self, model)
        finally:
            self._env = own

    return captured


def watching_as_system(guard: Any) -> Any:
    """Show each event with access rules off."""

    async def allowed(self: Any) -> Any:
        own, self._env = self._env, self._env.as_system("a guard is off")
        try:
            return await guard(self)
        finally:
            self._env = own

    return allowed


def kept_only(guard: Any) -> Any:
    """Judge by what is kept now, and not by what the operation has begun with."""

    def current(self: Any, env: Any) -> Any:
        who = None if env.principal is None else env.principal.id
        return self._kept(who, float("-inf"), 0) or guard(self, env)

    return current


GUARDS: Final[dict[str, Guard]] = {
    "rights on models": Guard(
        f"{_SECURITY}.policy:Policy.missing",
        giving(None),
        (
            "test_access.py::test_an_empty_list_of_rights_denies_everything",
            "test_gate.py::test_no_method_reaches_the_database_past_the_gate",
        ),
    ),
    "work on all records": Guard(
        "earnorm.kernel.binding:BoundModel.need_system",
        giving(None),
        (
            "test_gate.py::test_no_method_reaches_the_database_past_the_gate",
            "test_files.py::test_only_the_system_deletes_content_that_no_record_points_at",
        ),
    ),
    "rules on reading": Guard(
        f"{_SECURITY}.enforcement:Reading._restricted",
        soon_passing(1),
        (
            "test_rules.py::test_search_and_count_see_what_the_rules_leave",
            "test_rules.py::test_group_and_streams_see_what_the_rules_leave",
        ),
    ),
    "rules on new records": Guard(
        f"{_SECURITY}.enforcement:Creating.__call__",
        passing_on,
        ("test_rules.py::test_every_created_document_must_satisfy_the_create_rules",),
    ),
    "rules before a change": Guard(
        f"{_SECURITY}.enforcement:Changing.__call__",
        passing_on,
        (
            "test_rules.py::test_writing_a_hidden_record_is_like_writing_a_missing_one",
            "test_access.py::test_write_and_unlink_take_the_right_to_read_as_well",
        ),
    ),
    "rules after a change": Guard(
        f"{_SECURITY}.enforcement:Changing._rest",
        soon_giving(Domain.TRUE),
        ("test_rules.py::test_a_write_cannot_move_a_record_out_of_the_rule",),
    ),
    "rules on filled-in values": Guard(
        f"{_SECURITY}.plugin:judge",
        soon_giving(None),
        ("test_filled_in.py::test_a_new_record_is_judged_with_what_is_filled_in",),
    ),
    "rules on what was stored": Guard(
        f"{_SECURITY}.afterwards:_refuse_stored",
        soon_giving(None),
        ("test_judged_when_stored.py::test_a_collation_decides_and_not_memory",),
    ),
    "strict rules": Guard(
        f"{_SECURITY}.strict:_hold",
        soon_giving(None),
        ("test_strict_rules.py::test_a_record_that_is_taken_away_meanwhile_is_not_written",),
    ),
    "rules of subclasses": Guard(
        f"{_SECURITY}.policy:Policy.family",
        lambda guard: lambda self: ([self], []),
        ("test_polymorphism.py::test_the_root_shows_what_each_class_shows",),
    ),
    "conditions of a change": Guard(
        "earnorm.model.reading.resolving:select",
        selecting_as_system,
        ("test_conditions_of_changes.py::test_hidden_values_decide_nothing_of_a_change",),
    ),
    "targets of links": Guard(
        "earnorm.model.relations.link_checks:LinkLayer._to_check",
        giving(()),
        ("test_links.py::test_a_hidden_record_is_linked_no_more_than_a_missing_one",),
    ),
    "hidden fields": Guard(
        f"{_SECURITY}.enforcement:checked_read",
        lambda guard: lambda policy, op: (op, None),
        ("test_field_rights.py::test_hidden_fields_are_in_no_record_however_it_is_read",),
    ),
    "conditions on fields": Guard(
        f"{_SECURITY}.field_access:check_domain",
        giving(None),
        ("test_field_rights.py::test_each_use_of_a_field_needs_its_own_right",),
    ),
    "values for fields": Guard(
        f"{_SECURITY}.plugin:check_values",
        giving(None),
        ("test_field_rights.py::test_a_value_for_a_field_needs_the_right_to_set_it_on_every_way",),
    ),
    "joins of pipelines": Guard(
        f"{_FEATURES}.grouping.pipeline:_Compiler._captured",
        capturing_as_system,
        ("test_pipelines.py::test_a_join_obeys_the_rights_of_the_other_model",),
    ),
    "barriers in pipelines": Guard(
        f"{_FEATURES}.grouping.joining:with_barriers",
        passing(0),
        ("test_pipelines.py::test_an_expression_is_not_evaluated_on_a_hidden_record",),
    ),
    "the server's words": Guard(
        f"{_SECURITY}.enforcement:without_words",
        passing(0),
        (
            "test_pipelines.py::test_the_server_s_words_reach_nobody_who_is_anonymous",
            "test_server_words.py::test_the_values_of_a_refused_write_are_not_in_the_error",
        ),
    ),
    "plans": Guard(
        f"{_FEATURES}.explaining.explanation:reduced",
        passing(0),
        ("test_explain.py::test_a_plan_tells_a_principal_nothing_of_the_values_in_a_rule",),
    ),
    "change events": Guard(
        f"{_FEATURES}.watching.watching:Watch._allowed",
        watching_as_system,
        ("test_watching.py::test_only_events_of_readable_records_arrive",),
    ),
    "relations of another reader": Guard(
        "earnorm.model.relations.ghosts:is_of_other",
        giving(False),
        ("test_who_acts.py::test_a_relation_that_somebody_else_loaded_loads_as_who_awaits_it",),
    ),
    "streams of another reader": Guard(
        "earnorm.model.reading.streaming:refuse_other_actor",
        giving(None),
        ("test_who_acts.py::test_a_stream_does_not_go_on_as_somebody_else",),
    ),
    "the end of system()": Guard(
        "earnorm.kernel.environment:_in_force",
        passing(0),
        ("test_who_acts.py::test_a_task_loses_the_rights_of_system_with_the_block",),
    ),
    "untrusted domains in system()": Guard(
        "earnorm.domain.ast:marked",
        lambda guard: lambda kind, children: kind(children),
        ("test_untrusted.py::test_reads_see_what_the_principal_sees",),
    ),
    "uploads of files": Guard(
        "earnorm.kernel.binding:BoundModel.ask_beforehand",
        soon_giving(None),
        (
            "test_files.py::test_nothing_is_uploaded_to_a_record_that_may_not_be_written",
            "test_gate.py::test_no_method_reaches_the_database_past_the_gate",
        ),
    ),
    "names in errors": Guard(
        "earnorm.kernel.naming:unnamed_fields",
        giving(frozenset()),
        (
            "test_named_fields.py::test_no_error_names_a_field_that_one_may_not_use",
            "test_named_fields.py::test_no_error_names_a_field_of_a_closed_model",
        ),
    ),
    "records of other tenants": Guard(
        f"{_SECURITY}.tenants:Tenants._own",
        giving(Domain.TRUE),
        (
            "test_tenants.py::test_each_way_of_reading_shows_the_own_tenants_only",
            "test_tenant_laws.py::test_what_other_tenants_have_cannot_be_told",
        ),
    ),
    "moves to other tenants": Guard(
        f"{_SECURITY}.tenants:Tenants.keep",
        soon_giving(None),
        ("test_tenants.py::test_a_record_keeps_its_tenant",),
    ),
    "links to other tenants": Guard(
        f"{_SECURITY}.tenants:Tenants.agree",
        soon_giving(None),
        (
            "test_tenants.py::test_a_link_leads_to_a_record_of_the_same_tenant",
            "test_tenant_laws.py::test_no_call_leaves_a_link_from_one_tenant_to_another",
        ),
    ),
    "unique values of other tenants": Guard(
        f"{_FEATURES}.indexes.declarations:scoped",
        passing(1),
        (
            "test_tenants.py::test_unique_values_are_those_of_the_tenant",
            "test_tenant_laws.py::test_what_other_tenants_have_cannot_be_told",
        ),
    ),
    "numbers of other tenants": Guard(
        f"{_FEATURES}.sequences.plugin:scopes_of",
        giving(()),
        (
            "test_tenants.py::test_each_tenant_has_its_own_numbers",
            "test_tenant_laws.py::test_what_other_tenants_have_cannot_be_told",
        ),
    ),
    "limits": Guard(
        f"{_SECURITY}.limits:Limits.check",
        giving(None),
        ("test_limits.py::test_what_costs_more_is_refused_with_one_error",),
    ),
    "places of ciphertexts": Guard(
        f"{_SECURITY}.secrets.cipher:Place.associated",
        giving(b""),
        ("test_encrypted.py::test_a_ciphertext_belongs_to_its_record_field_and_model",),
    ),
    "the age of what is stored": Guard(
        f"{_SECURITY}.stored.knowing:Knowledge._is_right",
        giving(True),
        (
            "test_stored_roles.py::test_another_app_knows_within_a_second",
            "test_stored_policies.py::test_another_app_knows_of_a_policy_within_a_second",
        ),
    ),
    "the count of edits": Guard(
        f"{_SECURITY}.stored.edits:count_edit",
        soon_giving(None),
        (
            "test_stored_roles.py::test_another_app_knows_within_a_second",
            "test_stored_policies.py::test_another_app_knows_of_a_policy_within_a_second",
        ),
    ),
    "one state for an operation": Guard(
        f"{_SECURITY}.stored.knowing:Knowledge.current",
        kept_only,
        (
            "test_stored_roles.py::test_an_operation_is_judged_by_one_state_from_its_begin_to_its_end",
        ),
    ),
    "checks of stored policies": Guard(
        f"{_SECURITY}.stored.edits:problems_of",
        giving(()),
        ("test_stored_policies.py::test_what_is_stored_is_checked_and_named",),
    ),
    "the plugin's own records": Guard(
        f"{_SECURITY}.stored.edits:_only_own",
        lambda guard: lambda op, call_next: call_next(op),
        (
            "test_stored_policies.py::test_each_edit_is_a_version_with_who_and_when_and_can_be_restored",
        ),
    ),
    "what follows from hidden records": Guard(
        f"{_FEATURES}.computed.following:_named",
        lambda guard: lambda op, bound, graph: ids_of(op.domain, bound.schema),
        ("test_non_interference.py::test_what_follows_from_a_hidden_record_is_not_looked_for",),
    ),
    "ids that rules find": Guard(
        f"{_SECURITY}.policy:unnamed",
        passing(0),
        (
            "test_non_interference.py::test_what_a_rule_finds_in_hidden_records_changes_neither_queries_nor_cache",
        ),
    ),
    "sequences of other tenants": Guard(
        f"{_SECURITY}.counters:_is_own",
        giving(True),
        ("test_tenants.py::test_a_sequence_of_the_program_is_drawn_in_the_own_scope",),
    ),
    "link models of no tenant": Guard(
        f"{_SECURITY}.tenants:Tenants._check_through",
        giving(None),
        ("test_tenants.py::test_a_link_model_that_belongs_to_no_tenant_is_refused",),
    ),
    "rules of all bases": Guard(
        f"{_SECURITY}.policy:added_up",
        lambda guard: lambda view, attribute, **options: view.attribute(attribute),
        ("test_inheriting_laws.py::test_nothing_that_a_class_is_made_of_is_lost",),
    ),
}
