"""What others added to what is ours, and what is left to them."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control.additions import Additions, additions

PORT = 'k:{"port":443,"protocol":"TCP"}'
OURS = {
    "f:metadata": {"f:labels": {"f:app": {}}},
    "f:spec": {
        "f:ports": {PORT: {".": {}, "f:port": {}, "f:targetPort": {}}},
        "f:selector": {},
        "f:template": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:nodeSelector": {"f:disk": {}}}},
    },
    "f:data": {"f:config.json": {}},
}
BODY: dict[str, Any] = {
    "spec": {
        "ports": [{"port": 443, "protocol": "TCP", "targetPort": "audit"}],
        "selector": {"app": "a"},
        "sessionAffinity": "None",
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"nodeSelector": {"disk": "ssd"}}},
    },
    "data": {"config.json": "e30="},
}


def fields(manager: str, owned: dict[str, Any], operation: str = "Update", **more: str) -> dict[str, Any]:
    """An entry of managedFields."""
    return {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": owned} | more


def found(entry: dict[str, Any], **parts: Any) -> Additions:
    """What is found where `entry` stands beside our own; `parts` replace those of BODY."""
    ours = fields("auditpipeline", OURS, "Apply")
    return additions({**BODY, **parts, "metadata": {"name": "a", "managedFields": [ours, entry]}})


MORE = BODY["spec"] | {"externalIPs": ["192.0.2.7"]}
PORTS = [*BODY["spec"]["ports"], {"port": 80, "protocol": "TCP", "nodePort": 30080}]


@pytest.mark.parametrize(
    ("owned", "parts", "patch"),
    [
        ({"f:spec": {"f:externalIPs": {}}}, {"spec": MORE}, {"spec": {"externalIPs": None}}),
        (
            {"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}}}},
            {"spec": BODY["spec"] | {"ports": PORTS}},
            {"spec": {"ports": BODY["spec"]["ports"]}},
        ),
        (
            {"f:spec": {"f:ports": {PORT: {"f:nodePort": {}}}}},
            {"spec": BODY["spec"] | {"ports": [BODY["spec"]["ports"][0] | {"nodePort": 1}]}},
            {"spec": {"ports": BODY["spec"]["ports"]}},
        ),
        (
            {"f:spec": {"f:ways": {'v:"in"': {}}}},
            {"spec": BODY["spec"] | {"ways": ["in", "out"]}},
            {"spec": {"ways": None}},
        ),
        ({"f:data": {"f:more": {}}}, {"data": BODY["data"] | {"more": "e30="}}, {"data": {"more": None}}),
        ({"f:spec": {"f:sessionAffinity": {}}}, {}, {"spec": {"sessionAffinity": None}}),
    ],
    ids=["a field", "an item", "a field of our item", "a set", "a key of a Secret", "a default that is owned"],
)
def test_what_others_own_of_spec_and_data_goes(
    owned: dict[str, Any], parts: dict[str, Any], patch: dict[str, Any]
) -> None:
    """The topmost thing of which nothing is ours; who names himself like us but does not apply is somebody else."""
    for manager in ("kubectl-edit", "auditpipeline"):
        assert found(fields(manager, owned), **parts).patch == patch
        assert found(fields(manager, owned), **parts).managers == (manager,)


REDACTED = "auditpipeline.dev/redaction"
NOTED: dict[str, Any] = {"f:metadata": {"f:annotations": {".": {}, f"f:{REDACTED}": {}, "f:mine": {}}}}


def test_an_annotation_of_others_about_redaction_goes_and_what_stands_beside_it_stays() -> None:
    """Our AuditSink says what its pipeline asks for."""
    meta = {"name": "a", "annotations": {REDACTED: "none", "mine": "x"}}
    ours, theirs = fields("auditpipeline", OURS, "Apply"), fields("kubectl-annotate", NOTED)
    seen = additions({**BODY, "metadata": meta | {"managedFields": [ours, theirs]}})
    assert seen.patch == {"metadata": {"annotations": {REDACTED: None}}}
    assert seen.managers == ("kubectl-annotate",)
    own = fields("auditpipeline", OURS | {"f:metadata": {"f:annotations": {f"f:{REDACTED}": {}}}}, "Apply")
    assert additions({**BODY, "metadata": meta | {"managedFields": [own, theirs]}}) == Additions()


TEMPLATE = BODY["spec"]["template"]
RESTARTED: dict[str, Any] = {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        (fields("argocd", {"f:metadata": {"f:annotations": {"f:argocd.argoproj.io/tracking-id": {}}}}), {}),
        (fields("kube-controller-manager", {"f:status": {"f:replicas": {}}}), {"status": {"replicas": 1}}),
        (fields("autoscaler", {"f:spec": {"f:sessionAffinity": {}}}, subresource="scale"), {}),
        (fields("velero", {"f:spec": {"f:selector": {}, "f:clusterIP": {}}}), {"spec": {"clusterIP": "10.0.0.1"}}),
        (fields("kubectl", {"f:spec": {"f:ports": {PORT: {".": {}, "f:port": {}}}}}), {}),
        (fields("gone", {"f:spec": {"f:externalIPs": {}}}), {}),
        (
            fields("kubectl-rollout", {"f:spec": {"f:template": {"f:metadata": RESTARTED}}}),
            {
                "spec": {
                    "template": TEMPLATE | {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "x"}}}
                }
            },
        ),
    ],
    ids=["tracking", "status of 1.18", "scale", "restored", "the same as ours", "not there", "restarted"],
)
def test_what_is_left_to_others(entry: dict[str, Any], parts: dict[str, Any]) -> None:
    """And what nobody owns, such as defaults."""
    assert found(entry, **parts) == Additions()


def test_another_annotation_beside_the_restart_goes() -> None:
    """Of the template; it can make an admission plugin put a container into the Pod."""
    both = {"kubectl.kubernetes.io/restartedAt": "x", "sidecar.istio.io/inject": "true"}
    owned: dict[str, Any] = {"f:annotations": {".": {}, **{f"f:{name}": {} for name in both}}}
    template = TEMPLATE | {"metadata": TEMPLATE["metadata"] | {"annotations": both}}
    made = found(
        fields("kubectl", {"f:spec": {"f:template": {"f:metadata": owned}}}), spec=BODY["spec"] | {"template": template}
    )
    assert made.patch == {"spec": {"template": {"metadata": {"annotations": {"sidecar.istio.io/inject": None}}}}}
    assert made.fields == ("spec.template.metadata.annotations.sidecar.istio.io/inject",)


def test_an_object_that_was_not_applied_is_left_alone() -> None:
    """What is ours of it is not known."""
    entry = fields("kubectl", {"f:spec": {"f:externalIPs": {}}})
    assert additions(BODY | {"metadata": {"name": "a", "managedFields": [entry]}}) == Additions()
    assert additions(BODY | {"metadata": {"name": "a"}}) == Additions()
