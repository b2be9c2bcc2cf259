"""What can be wrong with a method's options: each mistake refuses start-up, with file, line, method and option.

One row a mistake: its name, the method, and what the refusal says of it. Mistakes that take more than one method, or a
handler, are in test_contract.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server.contract import loading
from tests.server.contracts import contract, method, refusal, service


def newer(options: str, *path: str) -> Any:
    """A method whose contract has, at the end of a path of fields, a field of a later version: number 99."""
    proto = method(options=options)
    place: Any = proto.options.Extensions[annotations_pb2.operation]
    for name in path:
        place = getattr(place, name)
        if not isinstance(place, Message):
            place = place[0]
    place.MergeFromString(FIELD_99)
    return proto


FIELD_99 = b"\x9a\x06\x05admin"
NEWER = (
    "its field 99 is not known to this version: it is made for a newer Longshore, and never ignored in silence; "
    "serve it with that one, or remove the field"
)
TOO_SHORT = (
    "option retry.max_duration: it is shorter than initial_delay, and no attempt would follow: make one fit the other"
)
CASES: dict[str, tuple[Any, str]] = {
    "a signal without a name": (
        method(options='signals { payload_type: "Other" } control {}'),
        "option signals[0].name: it is missing; callers send a signal by its name",
    ),
    **{
        f"a signal called {name[:9]}": (
            method(options=f'signals {{ name: "{name}" payload_type: "Other" }} control {{}}'),
            (f"option signals[0].name: {name!r} must be at most 63 lower-case letters, digits, '_' and '-', the first "
            "one a letter, for example 'approve'"),
        )
        for name in ("Approve", "2nd", "a,b", "a b", "a" * 64)
    },
    "a signal twice": (
        method(options='signals { name: "a" payload_type: "Other" } signals { name: "b" payload_type: "Other" }'
               'signals { name: "a" payload_type: "Result" } control {}'),
        "option signals[2].name: 'a' is declared twice; give each signal a name of its own",
    ),
    "a signal without a payload type": (
        method(options='signals { name: "a" } control {}'),
        "option signals[0].payload_type: it must name a message; google.protobuf.Empty stands for none",
    ),
    "a signal of an unknown payload type": (
        method(options='signals { name: "a" payload_type: "Othre" } control {}'),
        ("option signals[0].payload_type: no message is called 'Othre' in PKG or any imported file. Did you mean "
        "'Other'?"),
    ),
    "a signal of which fewer than none may wait": (
        method(options='signals { name: "a" payload_type: "Other" max_pending: -1 } control {}'),
        "option signals[0].max_pending: it must be between 0 and 1000, not -1; 0 means 100",
    ),
    "a signal of which too many may wait": (
        method(options='signals { name: "a" payload_type: "Other" max_pending: 1001 } control {}'),
        "option signals[0].max_pending: it must be between 0 and 1000, not 1001; 0 means 100",
    ),
    "signals of which too many may wait together": (
        method(options=" ".join(f'signals {{ name: "{n}" payload_type: "Other" max_pending: 667 }}' for n in "abc")
               + " control {}"),
        "option signals: together 2001 signals may wait, at most 2000 may: give some a lower max_pending",
    ),
    "signals without control": (
        method(options='signals { name: "a" }'),
        "option control: it must be present, because signals are declared; say `control: {}` to mean everyone",
    ),
    "an unknown error type": (
        method(options='errors: "Other" errors: "Othre"'),
        "option errors[1]: no message is called 'Othre' in PKG or any imported file. Did you mean 'Other'?",
    ),
    "an error type twice": (
        method(options='errors: "Other" errors: "Other"'),
        "option errors[1]: PKG.Other is declared twice; leave one out",
    ),
    "an error type that every failure carries": (
        method(options='errors: "google.rpc.ErrorInfo"'),
        "option errors[0]: every failure carries a google.rpc.ErrorInfo; leave it out",
    ),
    "an error type without a name": (
        method(options='errors: ""'),
        "option errors[0]: it is empty; name a message, or leave it out",
    ),
    "an option of a newer version": (newer(""), f"option (longshore.v1.operation): {NEWER}"),
    "a gate of a newer version": (newer("call {}", "call"), f"option call: {NEWER}"),
    "a signal of a newer version": (
        newer('signals { name: "a" payload_type: "Other" } control {}', "signals"), f"option signals[0]: {NEWER}",
    ),
    "a retry policy of a newer version": (
        newer("retry { max_attempts: 2 }", "retry"), f"option retry: {NEWER}",
    ),
    "a delay of a newer version": (
        newer("retry { max_attempts: 2 }", "retry", "initial_delay"), f"option retry.initial_delay: {NEWER}",
    ),
    "a streaming twin of a newer version": (
        newer('watches: "Play"'), f"option (longshore.v1.operation): {NEWER}",
    ),
    "a gate with an undeclared capability": (
        method(options='observe { all_of: "orders.read" }'),
        "option observe: capability 'orders.read' is not declared by the service",
    ),
    "observe on nothing": (
        method(options='observe { all_of: "" }'), "option observe: capability '' is not declared by the service",
    ),
    "a gate with a built-in capability": (
        method(options='control { all_of: "longshore.provider" }'),
        "option control: capability 'longshore.provider' is not declared by the service",
    ),
    "an unknown answer to changed steps": (
        method(options="on_step_change: 9"), "option on_step_change: 9 is not a value that this version knows",
    ),
    "an unknown visibility": (
        method(options="visibility: 9"), "option visibility: 9 is not a value that this version knows",
    ),
    "takes a stream": (
        method(takes_stream=True), "an operation takes one request, not a stream",
    ),
    "returns another message": (
        method(output=".PKG.Result"),
        "an operation must return google.longrunning.Operation, not PKG.Result",
    ),
    "no operation_info": (
        method(info=None),
        ("option (google.longrunning.operation_info) is missing: it names the result and progress "
        "types"),
    ),
    "no result type": (
        method(info=("", "Progress")),
        ("option operation_info.response_type: it must name a message; google.protobuf.Empty stands "
        "for none"),
    ),
    "no progress type": (
        method(info=("Result", "")),
        ("option operation_info.metadata_type: it must name a message; google.protobuf.Empty stands "
        "for none"),
    ),
    "a result type with a slip": (
        method(info=("Resutl", "Progress")),
        ("option operation_info.response_type: no message is called 'Resutl' in PKG or any imported "
        "file. Did you mean 'Result'?"),
    ),
    "an unknown progress type": (
        method(info=("Result", "no.such.Thing")),
        ("option operation_info.metadata_type: no message is called 'no.such.Thing' in PKG or any "
        "imported file"),
    ),
    "an unknown output type": (
        method(options='output_type: "Outptu"'),
        "option output_type: no message is called 'Outptu' in PKG or any imported file",
    ),
    "a retry policy without a number of attempts": (
        method(options="retry {}"),
        "option retry.max_attempts: it must be between 1 and 1,000,000 attempts in all, the first included",
    ),
    "a negative number of attempts": (
        method(options="retry { max_attempts: -1 }"),
        "option retry.max_attempts: it must be between 1 and 1,000,000 attempts in all, the first included",
    ),
    "an unknown backoff": (
        method(options="retry { max_attempts: 2 backoff: 9 }"),
        "option retry.backoff: 9 is not a value that this version knows",
    ),
    "a negative delay": (
        method(options="retry { max_attempts: 2 initial_delay { seconds: -1 } }"),
        "option retry.initial_delay: it must not be negative",
    ),
    "a longest delay of nothing": (
        method(options="retry { max_attempts: 2 max_delay {} }"),
        "option retry.max_delay: it must be longer than zero",
    ),
    "a longest delay shorter than the first": (
        method(options="retry { max_attempts: 2 initial_delay { seconds: 2 } max_delay { seconds: 1 } }"),
        "option retry.max_delay: it is shorter than initial_delay, which it would cut: make one fit the other",
    ),
    "a longest delay shorter than the default of the first": (
        method(options="retry { max_attempts: 2 max_delay { nanos: 1000 } }"),
        "option retry.max_delay: it is shorter than initial_delay, which it would cut: make one fit the other",
    ),
    "a jitter above one": (
        method(options="retry { max_attempts: 2 jitter: 1.5 }"),
        "option retry.jitter: it is 1.5, and must be a share between 0 and 1",
    ),
    "a negative jitter": (
        method(options="retry { max_attempts: 2 jitter: -0.1 }"),
        "option retry.jitter: it is -0.1, and must be a share between 0 and 1",
    ),
    "a jitter that is no number": (
        method(options="retry { max_attempts: 2 jitter: nan }"),
        "option retry.jitter: it is nan, and must be a share between 0 and 1",
    ),
    "a longest duration of nothing": (
        method(options="retry { max_attempts: 2 max_duration {} }"),
        "option retry.max_duration: it must be longer than zero",
    ),
    "a reason that is no word": (
        method(options='retry { max_attempts: 2 non_retryable_reasons: ["GOOD", "card declined"] }'),
        "option retry.non_retryable_reasons[1]: 'card declined' is no reason such as CARD_DECLINED",
    ),
    "a reason twice": (
        method(options='retry { max_attempts: 2 non_retryable_reasons: ["GOOD", "GOOD"] }'),
        "option retry.non_retryable_reasons[1]: 'GOOD' is named twice",
    ),
    "a retention of less than the shortest time": (
        method(options="retention { nanos: 999 }"), "option retention: it must be at least a microsecond, or zero",
    ),
    "a timeout of less than the shortest time": (
        method(options="timeout { nanos: 1 }"), "option timeout: it must be at least a microsecond",
    ),
    "a first delay of less than the shortest time": (
        method(options="retry { max_attempts: 2 initial_delay { nanos: 1 } }"),
        "option retry.initial_delay: it must be at least a microsecond, or zero",
    ),
    "a first delay longer than the timeout": (
        method(options="timeout { seconds: 2 } retry { max_attempts: 2 initial_delay { seconds: 2 nanos: 1000 } }"),
        "option retry.initial_delay: it is longer than timeout, and no attempt would follow: make one fit the other",
    ),
    "a longest duration shorter than the first delay": (
        method(options="retry { max_attempts: 2 max_duration { nanos: 999999000 } }"), TOO_SHORT,
    ),
    "a longest duration shorter than the first delay, whatever the jitter": (
        method(options="retry { max_attempts: 2 jitter: 0.5 initial_delay{seconds: 5} max_duration{seconds: 2} }"),
        TOO_SHORT,
    ),
    "a default of the first delay longer than the timeout": (
        method(options="timeout { nanos: 999999000 } retry { max_attempts: 2 }"),
        "option retry.initial_delay: it is longer than timeout, and no attempt would follow: make one fit the other",
    ),
    "an attempt timeout longer than the timeout": (
        method(options="timeout { seconds: 2 } attempt_timeout { seconds: 2 nanos: 1000 }"),
        "option attempt_timeout: it is longer than timeout, which ends every attempt before: make one fit the other",
    ),
    "a number of crashes where the first one fails": (
        method(options="on_crash: ON_CRASH_FAIL max_crashes: 3"),
        "option max_crashes: it means nothing with on_crash ON_CRASH_FAIL",
    ),
    "a negative retention": (
        method(options="retention { seconds: -1 }"), "option retention: it must not be negative",
    ),
    "a retention beyond all time": (
        method(options="retention { seconds: 300000000000 }"),
        "option retention: it must not be longer than 1,000,000,000 seconds",
    ),
    "a timeout of nothing": (
        method(options="timeout {}"), "option timeout: it must be longer than zero",
    ),
    "a negative timeout": (
        method(options="timeout { seconds: -1 }"), "option timeout: it must be longer than zero",
    ),
    "a timeout beyond all time": (
        method(options="timeout { seconds: 9223372036854775807 }"),
        "option timeout: it must not be longer than 1,000,000,000 seconds",
    ),
    "a timeout whose parts disagree": (
        method(options="timeout { seconds: 1 nanos: -5 }"),
        "option timeout: it is no duration: its nanos must be between 0 and 999,999,999",
    ),
    "a timeout with too many nanoseconds": (
        method(options="timeout { seconds: 1 nanos: 1000000000 }"),
        "option timeout: it is no duration: its nanos must be between 0 and 999,999,999",
    ),
    "a negative attempt timeout": (
        method(options="attempt_timeout { seconds: -1 }"),
        "option attempt_timeout: it must be longer than zero",
    ),
    "an attempt timeout of nothing": (
        method(options="attempt_timeout {}"),
        "option attempt_timeout: it must be longer than zero",
    ),
    "a negative grace": (
        method(options="cancellation: CANCELLATION_COOPERATIVE cancel_grace { seconds: -1 }"),
        "option cancel_grace: it must not be negative",
    ),
    "a grace without cancellation": (
        method(options="cancel_grace { seconds: 1 }"),
        "option cancel_grace: it means nothing unless cancellation is CANCELLATION_COOPERATIVE",
    ),
    "a grace with best effort": (
        method(options="cancellation: CANCELLATION_BEST_EFFORT cancel_grace { seconds: 1 }"),
        "option cancel_grace: it means nothing unless cancellation is CANCELLATION_COOPERATIVE",
    ),
    "unbounded: false": (
        method(options="unbounded: false"),
        "option unbounded: it must be true when it is written; leave it out otherwise",
    ),
    "no crash at all": (
        method(options="max_crashes: 0"), "option max_crashes: it must be at least 1",
    ),
    "an unknown cancellation": (
        method(options="cancellation: 9"),
        "option cancellation: 9 is not a value that this version knows",
    ),
    "an unknown on_crash": (
        method(options="on_crash: 9"),
        "option on_crash: 9 is not a value that this version knows",
    ),
    "an unknown on_terminal": (
        method(options='id_template: "o-{key}" on_terminal: 9'),
        "option on_terminal: 9 is not a value that this version knows",
    ),
    "on_terminal without a template": (
        method(options="on_terminal: ON_TERMINAL_NEW"),
        "option on_terminal: it means nothing without id_template",
    ),
    "a template without a prefix": (
        method(options='id_template: "{key}"'),
        ("option id_template: it must begin with a literal prefix, for example "
        "'orders-process-{order_id}'"),
    ),
    "a template without a placeholder": (
        method(options='id_template: "orders"'),
        "option id_template: it has no placeholder, so every operation would have the same name",
    ),
    "a template with bad characters": (
        method(options='id_template: "orders/{key}"'),
        "option id_template: 'orders/' may only hold letters, digits, '.', '_', '~' and '-'",
    ),
    "a template with a brace too many": (
        method(options='id_template: "o-{key}}"'),
        "option id_template: '}' may only hold letters, digits, '.', '_', '~' and '-'",
    ),
    "a template with two placeholders that touch": (
        method(options='id_template: "o-{key}{inner.key}"'),
        "option id_template: two placeholders must have a literal between them, or two inputs could share a name",
    ),
    "a template that makes names too long for Get": (
        method(options=f'id_template: "{"p" * 800}-{{key}}-{"s" * 95}"'),
        ("option id_template: it makes names of up to 1025 characters, and they may have 1024: the values take 128, "
         "its own text 897"),
    ),
    "a template with an unknown field": (
        method(options='id_template: "o-{kye}"'),
        "option id_template: 'kye' is not a field of PKG.Input",
    ),
    "a template with a field of a text": (
        method(options='id_template: "o-{key.x}"'),
        "option id_template: 'key.x' is no path of PKG.Input: key is not a single message",
    ),
    "a template with a number": (
        method(options='id_template: "o-{count}"'),
        "option id_template: {count} must be a single string field of PKG.Input",
    ),
    "a template with a list": (
        method(options='id_template: "o-{keys}"'),
        "option id_template: {keys} must be a single string field of PKG.Input",
    ),
    "a template with a message": (
        method(options='id_template: "o-{inner}"'),
        "option id_template: {inner} must be a single string field of PKG.Input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_method_is_refused(case: str) -> None:
    proto, message = CASES[case]
    assert refusal(proto) == f"FILE:7: Orders.Play: {message}"


@pytest.mark.parametrize("gate", ["call", "observe", "cancel", "control"])
def test_a_gate_that_names_a_capability_twice_is_refused(gate: str) -> None:
    proto = method(options=f'{gate} {{ all_of: "a" all_of: "b" all_of: "a" }}')
    declared = 'capabilities { name: "a" } capabilities { name: "b" }'
    message = f"FILE:7: Orders.Play: option {gate}: capability 'a' is named twice"
    assert refusal(proto, service_options=declared) == message


@pytest.mark.parametrize(
    "options",
    [
        "timeout { seconds: 2 } attempt_timeout { seconds: 2 } retry { max_attempts: 2 initial_delay { seconds: 2 } }",
        "unbounded: true attempt_timeout { seconds: 2 } retry { max_attempts: 2 }",
        "attempt_timeout { seconds: 2 } retry { max_attempts: 2 }",
        "retention {} timeout { nanos: 1000 }",
        f'id_template: "{"p" * 800}-{{key}}-{"s" * 94}"',
        "retry { max_attempts: 2 jitter: 0.5 initial_delay { seconds: 4 } max_duration { seconds: 2 } }",
        "timeout { seconds: 2 } retry { max_attempts: 2 jitter: 0.5 initial_delay { seconds: 4 } }",
    ],
)
def test_what_just_fits_is_accepted(options: str) -> None:
    assert loading.load([service(contract(method(options=options)))], default_timeout=1)


@pytest.mark.parametrize("place", ["contract", "contract.capabilities[0]"])
def test_what_a_newer_version_says_of_a_service_is_refused(place: str) -> None:
    option = annotations_pb2.Contract(capabilities=[annotations_pb2.Capability(name="a")])
    (option if place == "contract" else option.capabilities[0]).MergeFromString(FIELD_99)
    assert refusal(method(), service_options=option) == f"FILE: Orders: option {place}: {NEWER}"


def test_the_table_names_the_place_of_every_mistake() -> None:
    """Twenty kinds at least, each with the option that is wrong, but for those of the method's own form."""
    form = {"takes a stream", "returns another message"}
    assert len(CASES) >= 20
    assert [
        case for case, (_, message) in CASES.items() if case not in form and not message.startswith("option ")
    ] == []
