"""Which static policy is in force, and what is said of a pipeline then."""

from __future__ import annotations

import pytest

from auditpipeline.control.apiservers import FORGIVEN, Reading, Server, of_slice, parse
from auditpipeline.control.upstream import PolicyFile, UpstreamState, text_digest
from auditpipeline.core.floor import with_floor
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.policyfile import dump
from auditpipeline.core.upstream import coverage

DONE = ("RequestReceived",)
LITTLE, MUCH = Policy((Rule("Metadata"),), DONE), Policy((Rule("Request"),), DONE)
HERE, THERE = Server("", "10.0.0.1"), Server("", "10.0.0.2")


def file(policy: Policy, changed: float, address: str = "10.0.0.1") -> PolicyFile:
    return PolicyFile(f"gateway-{address}", address, dump(policy), changed)


def look(state: UpstreamState, files: list[PolicyFile], readings: list[Reading]) -> tuple[str, str]:
    """One round, as `control.static` makes it: status and reason for pipeline `a`."""
    state.take_files(files)
    state.take_readings(readings)
    for each in files:
        state.parsed[each.digest] = next(policy for policy in (LITTLE, MUCH) if dump(policy) == each.text)
    state.judge()
    for static, wanted in state.missing():
        policy = state.parsed[static]
        assert isinstance(policy, Policy)
        state.covered[static, wanted] = coverage(policy, state.policies[wanted])
    state.settle()
    return said(state)


def said(state: UpstreamState) -> tuple[str, str]:
    """Status and reason for pipeline `a`; empty while nobody has looked."""
    verdict = state.verdict("a")
    return verdict[:2] if verdict else ("", "")


def message(state: UpstreamState) -> str:
    verdict = state.verdict("a")
    return verdict.message if verdict else ""


def asking(policy: Policy) -> UpstreamState:
    state = UpstreamState()
    assert state.ask("a", policy)
    assert not state.ask("a", policy)
    return state


@pytest.mark.parametrize(
    ("static", "changed", "started", "expected"),
    [
        (MUCH, 100.0, 101.0, ("True", "Covered")),
        (MUCH, 100.0, 99.0, ("False", "RestartNeeded")),
        (LITTLE, 100.0, 101.0, ("False", "RulesNotMet")),
        (LITTLE, 100.0, 99.0, ("False", "RulesNotMet")),
    ],
)
def test_a_file_counts_from_the_next_start_on(
    static: Policy, changed: float, started: float, expected: tuple[str, str]
) -> None:
    """The API server reads it once."""
    assert look(asking(MUCH), [file(static, changed)], [Reading(HERE, 200, started)]) == expected


def test_what_was_in_force_stays_so_until_the_next_start() -> None:
    """A file that is replaced takes nothing from anybody before; a restart that was seen needs no clock."""
    wants_little, wants_much = asking(LITTLE), asking(MUCH)
    for state in (wants_little, wants_much):
        look(state, [file(LITTLE, 100)], [Reading(HERE, 200, 150)])
    after = [file(MUCH, 300)]
    assert look(wants_little, after, [Reading(HERE, 310, 150)]) == ("True", "Covered")
    assert look(wants_much, after, [Reading(HERE, 310, 150)]) == ("False", "RestartNeeded")
    # It started again, and says that this was a little before the file changed: the clock was set back meanwhile.
    assert look(wants_much, after, [Reading(HERE, 320, 299.5)]) == ("True", "Covered")


def test_another_nodes_clock_is_trusted_less() -> None:
    """Two API servers, and gateways of other addresses: all have to be surely newer than each file."""
    state, files = asking(MUCH), [file(MUCH, 100, "10.9.9.8"), file(MUCH, 100, "10.9.9.9")]
    readings = [Reading(HERE, 200, 105), Reading(THERE, 200, 150)]
    assert look(state, files, readings) == ("False", "RestartNeeded")
    newer = [Reading(HERE, 200, 111), Reading(THERE, 200, 150)]
    assert look(asking(MUCH), files, newer) == ("True", "Covered")


@pytest.mark.parametrize(
    ("addresses", "named"),
    [
        (["10.0.0.1"], ["10.0.0.2"]),
        (["10.9.9.9"], ["10.0.0.1", "10.0.0.2"]),
        (["10.0.0.1", "10.0.0.1"], ["10.0.0.2"]),
    ],
)
def test_an_api_server_without_a_gateway_beside_it_is_not_known_about(addresses: list[str], named: list[str]) -> None:
    """It may run with any policy; and with a gateway of an unknown address, it may be either of two."""
    state = asking(MUCH)
    readings = [Reading(HERE, 500, 200), Reading(THERE, 500, 200)]
    assert look(state, [file(MUCH, 100, address) for address in addresses], readings) == (
        "Unknown",
        "StaticPolicyUnknown",
    )
    errors = [ran.error for ran in state.ran if ran.error]
    wanted = [f"no gateway Pod runs beside kube-apiserver {address}," in " ".join(errors) for address in named]
    assert (len(errors), all(wanted)) == (len(named), True)
    assert message(state) in errors
    both = [file(MUCH, 100), file(MUCH, 100, "10.9.9.9")]
    assert look(state, both, readings) == ("True", "Covered")


def test_a_single_api_server_may_have_another_address_than_its_node() -> None:
    """There is but one that the file can be beside."""
    assert look(asking(MUCH), [file(MUCH, 100, "127.0.0.1")], [Reading(HERE, 200, 101)]) == ("True", "Covered")


def test_one_node_that_records_less_is_enough() -> None:
    """A request may go to any API server."""
    files = [file(MUCH, 100), file(LITTLE, 100, "10.0.0.2")]
    readings = [Reading(HERE, 200, 150), Reading(THERE, 200, 150)]
    assert look(asking(MUCH), files, readings) == ("False", "RulesNotMet")


def test_canaries_are_awaited_of_each_api_server_whose_policy_is_known_to_emit_them() -> None:
    """Of one that started before its file changed nothing is known; of one that is away for a moment all that was."""
    state = asking(MUCH)
    files = [file(MUCH, 100), file(LITTLE, 300, "10.0.0.2")]
    look(state, files, [Reading(HERE, 500, 200), Reading(THERE, 500, 200)])
    assert state.emitting == {HERE.name}
    look(state, files, [Reading(HERE, 500, error="no"), Reading(THERE, 500, 400)])
    assert state.emitting == {HERE.name, THERE.name}
    look(state, [], [Reading(HERE, 500, 200), Reading(THERE, 500, 400)])
    assert state.emitting == {HERE.name, THERE.name}
    silent = Policy((Rule("None"),), DONE)
    state.parsed[text_digest(dump(silent))] = silent
    state.take_files([file(silent, 600), file(LITTLE, 300, "10.0.0.2")])
    state.readings = [Reading(HERE, 800, 700), Reading(THERE, 800, 400)]
    state.judge()
    assert state.emitting == {THERE.name}


def test_what_cannot_be_known_is_not_claimed() -> None:
    """No gateway, no file, an API server that does not answer for long."""
    state = asking(MUCH)
    assert look(state, [], []) == ("Unknown", "GatewayPending")
    assert look(state, [file(MUCH, 100)], [Reading(HERE, 200, error="no")]) == ("", "")
    silent = Reading(HERE, 200 + FORGIVEN, error="no")
    assert look(state, [file(MUCH, 100)], [silent]) == ("Unknown", "StaticPolicyUnknown")
    state.take_files([PolicyFile("gateway", "10.0.0.1", "", 0, "No such file or directory")])
    state.judge()
    assert said(state) == ("Unknown", "StaticPolicyUnknown")
    assert "No such file" in message(state)


def test_what_nobody_has_looked_at_since_the_start_keeps_what_was_said() -> None:
    """Until the gateway, the API servers and the comparison have said something."""
    state = asking(MUCH)
    assert state.verdict("a") is None
    state.take_files([file(MUCH, 100)])
    state.judge()
    assert state.verdict("a") is None
    state.readings = [Reading(HERE, 200, 150)]
    state.parsed[text_digest(dump(MUCH))] = MUCH
    state.judge()
    assert state.verdict("a") is None
    assert look(state, [file(MUCH, 100)], state.readings) == ("True", "Covered")


def test_what_was_compared_before_an_api_server_was_asked_says_nothing() -> None:
    """Between its first answer and the next comparison neither."""
    state = asking(MUCH)
    assert look(state, [file(MUCH, 100)], []) == ("", "")
    state.take_readings([Reading(HERE, 200, 150)])
    assert state.verdict("a") is None


def test_only_a_policy_that_its_user_has_changed_is_said_to_be_compared() -> None:
    """A static policy that has changed says nothing of the pipeline until it is compared."""
    state, readings = asking(LITTLE), [Reading(HERE, 500, 400)]
    assert look(state, [file(LITTLE, 100)], readings) == ("True", "Covered")
    state.take_files([file(MUCH, 300)])
    state.parsed[text_digest(dump(MUCH))] = MUCH
    state.judge()
    assert state.verdict("a") is None
    assert look(state, [file(MUCH, 300)], readings) == ("True", "Covered")
    assert state.ask("a", Policy((Rule("Request", users=("alice",)),), DONE))
    assert said(state) == ("Unknown", "ComparisonPending")
    assert look(state, [file(MUCH, 300)], readings) == ("True", "Covered")


def test_an_api_server_that_is_away_for_a_moment_changes_no_verdict() -> None:
    """Nor does one that has never answered; what another one surely lacks is said all the same."""
    state, files = asking(MUCH), [file(MUCH, 100)]
    assert look(state, files, [Reading(HERE, 200, 150)]) == ("True", "Covered")
    assert look(state, files, [Reading(HERE, 201, error="no")]) == ("True", "Covered")
    assert look(state, files, [Reading(HERE, 200 + FORGIVEN, error="no")]) == ("True", "Covered")
    assert look(state, files, [Reading(HERE, 201 + FORGIVEN, error="no")]) == ("Unknown", "StaticPolicyUnknown")
    assert look(state, files, [Reading(HERE, 300, 250)]) == ("True", "Covered")
    both, readings = [file(LITTLE, 100), file(MUCH, 100, "10.0.0.2")], [Reading(HERE, 200, 150)]
    assert look(asking(MUCH), both, [*readings, Reading(THERE, 200, error="no")]) == ("False", "RulesNotMet")


def test_a_pipeline_that_cannot_be_read_any_more_keeps_what_it_asked_for() -> None:
    """Its Pods run on with the former policy."""
    state = asking(MUCH)
    before = state.wanted()
    assert not state.ask("a", None)
    assert state.wanted() == before
    assert state.ask("new", None)
    assert state.wanted() == before


def test_a_reading_takes_what_the_webhook_backend_counts() -> None:
    """As kube-apiserver writes it; other plugins' errors are none of ours."""
    text = b"""# TYPE apiserver_audit_error_total counter
apiserver_audit_error_total{plugin="buffered"} 3
apiserver_audit_error_total{plugin="log"} 9
apiserver_audit_error_total{plugin="webhook"} 400
apiserver_audit_event_total 1.2345e+06
apiserver_audit_requests_rejected_total 2
process_start_time_seconds 1.76399e+09
"""
    assert parse(text, HERE, 5.0) == Reading(HERE, 5.0, 1763990000.0, 1234500, 403, 2)
    assert parse(b"", HERE, 5.0).error


def test_each_of_several_api_servers_is_asked_by_its_own_address() -> None:
    """A single one is the configured one."""
    ports = [{"name": "https", "port": 6443}]
    one = {"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": ports}
    two = {"endpoints": [{"addresses": ["fd00::2"]}, {"addresses": ["10.0.0.1"]}], "ports": ports}
    assert of_slice({}) == [Server()]
    assert of_slice(one) == [Server("", "10.0.0.1")]
    assert [server.url for server in of_slice(two)] == ["https://10.0.0.1:6443", "https://[fd00::2]:6443"]


def test_rules_have_the_numbers_that_their_user_gave_them() -> None:
    """The floor stands before them, and is called so."""
    floored = UpstreamState()
    assert floored.ask("a", with_floor(MUCH), floored=True)
    look(floored, [file(LITTLE, 100.0)], [Reading(HERE, 200, 101.0)])
    told = message(floored)
    assert "the floor (RequestResponse" in told
    assert "; rule 0 (Request: everything) is recorded at Metadata, wanted at Request" in told


def test_that_a_file_is_newer_says_little_of_an_api_server_that_started_before_the_operator() -> None:
    """A former process may have known what it runs with; once this one has known, it is no guess any more."""
    state, readings = asking(MUCH), [Reading(HERE, 500, 200)]
    assert look(state, [file(MUCH, 300)], readings) == ("False", "RestartNeeded")
    assert state.is_guess("a")
    knowing = asking(LITTLE)
    assert look(knowing, [file(LITTLE, 100)], readings) == ("True", "Covered")
    assert look(knowing, [file(MUCH, 300)], readings) == ("True", "Covered")
    assert knowing.ask("a", MUCH)
    assert look(knowing, [file(MUCH, 300)], readings) == ("False", "RestartNeeded")
    assert not knowing.is_guess("a")
