"""Errors as problem details: the status, the places, and nothing that the client should not learn."""

from __future__ import annotations

import json
from typing import Any

import pytest

import earnorm
from earnorm import exceptions
from earnorm.exceptions import ErrorDetail
from earnorm.integrations.problems import ParameterRefused, Place, Problem, problem_of

SECRET = "mongodb://root:hunter2@db.internal rule 'own' of hidden 65f0"
DETAILS: list[ErrorDetail] = [
    ErrorDetail(loc=("lines", 1, "title"), msg="Field required", type="missing")
]


def errors() -> dict[str, exceptions.EarnORMError]:
    """Return an error of each class, with a message that is for the program."""
    made: dict[str, exceptions.EarnORMError] = {}
    for name, cls in vars(exceptions).items():
        if isinstance(cls, type) and issubclass(cls, exceptions.EarnORMError):
            if issubclass(cls, exceptions.DomainError):
                made[name] = cls("a condition")
            elif issubclass(cls, exceptions.BatchDuplicateKey):
                made[name] = cls("thing", DETAILS, fields=["email"], written=None)
            elif issubclass(cls, exceptions.BatchRefused):
                made[name] = cls("thing", DETAILS, written=None)
            elif issubclass(cls, exceptions.DuplicateKey):
                made[name] = cls("thing", ["email"])
            elif issubclass(cls, exceptions.ValidationError):
                made[name] = cls("thing", DETAILS)
            else:
                made[name] = cls(SECRET)
    return made


@pytest.mark.parametrize("name", sorted(errors()))
def test_a_problem_has_the_status_and_no_message_for_the_program(name: str) -> None:
    error = errors()[name]
    problem = problem_of(error)
    sent = problem.to_json().decode()
    assert problem.status == error.status
    assert "hunter2" not in sent and "hidden" not in sent
    members = json.loads(sent)
    assert members["status"] == error.status and members["title"] and members["type"]
    if error.status == 500:
        assert problem.is_internal and members["code"] == "internal" and "errors" not in members
    else:
        assert members["code"] == error.code
        assert not problem.is_internal and problem.detail


def test_the_places_of_a_validation_error_are_listed() -> None:
    members = problem_of(exceptions.ValidationError("thing", DETAILS)).to_dict()
    assert members["errors"] == [
        {"in": "body", "loc": ["lines", 1, "title"], "msg": "Field required", "type": "missing"}
    ]


def test_a_long_list_of_places_is_cut() -> None:
    many = [ErrorDetail(loc=(n,), msg="no", type="x") for n in range(1_000)]
    members = problem_of(exceptions.ValidationError("thing", many)).to_dict()
    assert len(members["errors"]) == 100 and members["errors_left_out"] == 900
    cut = Problem.of_places(Place("body", (n,), "no", "x") for n in range(150)).to_dict()
    assert len(cut["errors"]) == 100 and cut["errors_left_out"] == 50


def test_what_cannot_be_done_now_says_when_to_try_again() -> None:
    for error in (
        earnorm.ServerUnavailable("x"),
        earnorm.AppStopping("x"),
        earnorm.TransactionError("x", transient=True),
    ):
        assert problem_of(error).headers["retry-after"] == "5"
    # Whoever repeats this by itself may do it twice.
    assert "retry-after" not in problem_of(earnorm.TransactionOutcomeUnknown("x")).headers
    assert "retry-after" not in problem_of(earnorm.NotFound("x")).headers


def test_a_missing_record_and_a_hidden_one_are_one_problem() -> None:
    assert (
        problem_of(earnorm.NotFound("a")).to_json() == problem_of(earnorm.NotFound("b")).to_json()
    )


def test_what_is_no_error_of_the_library_is_internal() -> None:
    assert problem_of(RuntimeError(SECRET)).to_json() == problem_of(KeyError(1)).to_json()
    assert "hunter2" not in problem_of(RuntimeError(SECRET)).to_json().decode()


def test_an_error_of_a_plugin_for_clients_says_its_message() -> None:
    class QuotaExceeded(earnorm.EarnORMError):
        code, status = "quotas_exceeded", 429

    class Broken(earnorm.EarnORMError):
        code, status = "broken", 502

    class Odd(earnorm.EarnORMError):
        code, status = "odd", 200

    problem = problem_of(QuotaExceeded("the quota of 3 is used up"))
    assert (problem.status, problem.code) == (429, "quotas_exceeded")
    assert problem.detail == "the quota of 3 is used up"
    assert "hunter2" not in problem_of(Broken(SECRET)).detail
    assert problem_of(Odd("x")).status == 500


def test_a_lone_surrogate_is_told_as_an_escape() -> None:
    detail = ErrorDetail(loc=("\ud800",), msg="unknown \udfff", type="extra_forbidden")
    sent = problem_of(exceptions.ValidationError("thing", [detail])).to_json()
    assert json.loads(sent)["errors"][0]["loc"] == ["\ud800"]


def test_a_refused_parameter_names_it_and_its_part() -> None:
    error = exceptions.DomainError("no", loc=("note",)).coded("untrusted")
    members: dict[str, Any] = problem_of(ParameterRefused.of("filter", error)).to_dict()
    assert members["code"] == "untrusted"
    [place] = members["errors"]
    assert place["in"] == "query" and place["loc"] == ["filter", "note"]


def test_a_status_of_the_program_is_a_problem() -> None:
    problem = Problem.of_status(418, "short and stout")
    assert problem.title == "I'm a Teapot" and problem.code == "http_418"
    assert problem.headers["content-type"] == "application/problem+json"
    assert Problem.of_status(599).title == "Error"


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (404, "Not Found"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
        (799, "Error"),
    ],
)
def test_the_title_is_the_name_in_rfc_9110_on_every_python(status: int, title: str) -> None:
    assert Problem.of_status(status).to_dict()["title"] == title


@pytest.mark.parametrize("hint", ["; did you mean 'salary'?", "; known: owner, salary"])
def test_a_problem_names_no_fields_of_the_model(hint: str) -> None:
    detail = ErrorDetail(loc=("x",), msg=f"unknown field 'x'{hint}", type="unknown_field")
    (place,) = problem_of(exceptions.ValidationError("m", [detail])).places
    assert place.msg == "unknown field 'x'"
    # What an endpoint offers may be named.
    (place,) = problem_of(ParameterRefused([detail])).places
    assert place.msg == f"unknown field 'x'{hint}"
