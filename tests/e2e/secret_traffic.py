"""Everything that people and controllers do with secrets on a cluster, as one user in one namespace."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.cluster.controlplane import ADMINS
from tests.cluster.deployment import Deployment
from tests.cluster.processes import Failed
from tests.cluster.rest import Rest
from tests.e2e.mutating import LABEL
from tests.e2e.needles import Needles

USER, SHOP = "planter", "shop"
_FOLDER = f"/api/v1/namespaces/{SHOP}"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
KEPT_URL, KEPT_FILE = "https://login.example/realms/shop", "--key-file=/tls/tls.key"
"""Values that are no secrets, beside ones that are."""
POLICY: list[dict[str, Any]] = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "strong"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}
                ]
            },
            "validations": [
                {
                    "expression": "object.metadata.name != 'weak'",
                    "messageExpression": "'data.password: Invalid value: \"' + string(object.data.password) + '\"'",
                    "reason": "Invalid",
                }
            ],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "strong"},
        "spec": {
            "policyName": "strong",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SHOP}}},
        },
    },
]
"""A policy that says the value which it refuses."""


class Traffic:
    """What the user does; each secret comes from the needles."""

    def __init__(self, on: Deployment, needles: Needles) -> None:
        self._on, self._needles = on, needles
        cluster = on.cluster
        self._kubeconfig = cluster.user_kubeconfig(USER, [ADMINS])
        self._rest = Rest(cluster.url, cluster.authority, cluster.authority.client("planter", USER, [ADMINS]))

    def close(self) -> None:
        """Close the connection to the API server."""
        self._rest.close()

    def kubectl(self, *args: str, obj: Any = None) -> str:
        """kubectl as the user, in the namespace."""
        stdin = None if obj is None else json.dumps(obj)
        return self._on.kubectl("-n", SHOP, *args, stdin=stdin, kubeconfig=self._kubeconfig)

    def refused(self, *args: str, obj: Any = None) -> str:
        """The same for what cannot succeed; what kubectl says."""
        try:
            self.kubectl(*args, obj=obj)
        except Failed as error:
            return str(error)
        raise AssertionError(f"kubectl {' '.join(args)} was not refused")

    def secrets(self) -> None:
        """Made, patched in every way, replaced, read, refused."""
        new = self._needles.awkward
        data = {"password": _base64(new("data")), "other": _base64(new("data, another key"))}
        made = _secret("one", data=data, stringData={"api": new("stringData")})
        self.kubectl("create", "-f", "-", obj=made)
        operations = [{"op": "replace", "path": "/data/password", "value": _base64(new("JSON patch, a key"))}]
        self._patch("json", operations)
        whole = {"password": _base64(new("JSON patch, the whole of data"))}
        self._patch("json", [{"op": "replace", "path": "/data", "value": whole}])
        self._patch("merge", {"stringData": {"password": new("merge patch")}})
        self._patch("strategic", {"data": {"password": _base64(new("strategic patch"))}})
        applied = _secret("two", stringData={"password": new("apply"), "key": new("apply, another key")})
        self.kubectl("apply", "-f", "-", obj=applied)
        applied["stringData"]["password"] = new("apply, once more")
        self.kubectl("apply", "-f", "-", obj=applied)
        server = _secret("three", stringData={"password": new("server-side apply")})
        self.kubectl("apply", "--server-side", "-f", "-", obj=server)
        self.kubectl("replace", "-f", "-", obj=_secret("three", stringData={"password": new("update")}))
        refused = _secret("weak", stringData={"password": new("a message that refuses")})
        assert "Invalid value" in self.refused("create", "-f", "-", obj=refused)

    def _patch(self, kind: str, body: Any) -> None:
        self.kubectl("patch", "secret", "one", f"--type={kind}", "-p", json.dumps(body))

    def reads(self) -> None:
        """Lists of all sorts, and a deletion that answers with what it deleted."""
        self.kubectl("get", "secrets")
        self.kubectl("get", "secrets", "-o", "json")
        self.kubectl("get", "secret", "one", "-o", "yaml")
        self._rest("GET", f"{_FOLDER}/secrets?includeObject=Object", accept=TABLE)
        doomed = _secret("doomed", data={"password": _base64(self._needles.awkward("deletecollection"))})
        doomed["metadata"]["labels"] = {"doomed": "yes"}
        self.kubectl("create", "-f", "-", obj=doomed)
        self._rest("DELETE", f"{_FOLDER}/secrets?labelSelector=doomed%3Dyes")

    def tokens(self) -> None:
        """One that the API server makes, and one that is reviewed; a token with which nodes join."""
        made = self.kubectl("create", "token", "default").strip()
        self._needles.note("TokenRequest", made, made.rpartition(".")[2])
        head = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}}
        self._rest("POST", "/apis/authentication.k8s.io/v1/tokenreviews", head | {"spec": {"token": made}})
        other = self._needles.plain("TokenReview")
        self._rest("POST", "/apis/authentication.k8s.io/v1/tokenreviews", head | {"spec": {"token": other}})
        joins = _secret("bootstrap-token-abcdef", stringData={"token-secret": self._needles.plain("bootstrap token")})
        self.kubectl("create", "-f", "-", obj=joins | {"type": "bootstrap.kubernetes.io/token"})

    def workloads(self) -> None:
        """Applied, changed by `kubectl set env`, patched; an update of a Pod that is refused, with its difference."""
        new = self._needles.awkward
        web = _deployment(new("an environment"), new("an argument"))
        self.kubectl("apply", "-f", "-", obj=web)
        web["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = new("an environment, applied again")
        self.kubectl("apply", "-f", "-", obj=web)
        self.kubectl("set", "env", "deployment/web", f"API_TOKEN={new('an environment, set')}")
        operations = [
            {"op": "add", "path": "/spec/template/spec/containers/0/env/0/value", "value": new("env, JSON patch")}
        ]
        self.kubectl("patch", "deployment", "web", "--type=json", "-p", json.dumps(operations))
        job = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"}}
        template = {"spec": _pod_spec(new("an environment of a CronJob"), new("an argument of a CronJob"))}
        template["spec"]["restartPolicy"] = "Never"
        spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}
        self.kubectl("apply", "-f", "-", obj=job | {"spec": spec})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"}}
        pod |= {"spec": _pod_spec(new("an environment of a Pod"), new("an argument of a Pod"))}
        self.kubectl("apply", "-f", "-", obj=pod)
        changed = [{"op": "replace", "path": "/spec/containers/0/env/0/value", "value": new("a Pod's update, refused")}]
        said = self.refused("patch", "pod", "shell", "--type=json", "-p", json.dumps(changed))
        assert "pod updates may not change fields" in said

        self._job(new("a Job"))

    def _job(self, variable: str) -> None:
        """A Job, and a change of its template that is refused: the message has the whole template."""
        job: dict[str, Any] = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}}
        template = {
            "spec": _pod_spec(variable, self._needles.awkward("an argument of a Job")) | {"restartPolicy": "Never"}
        }
        self.kubectl("apply", "-f", "-", obj=job | {"spec": {"template": template}})
        template["spec"]["containers"][0]["env"][0]["value"] = self._needles.awkward("a Job's update, refused")
        assert "field is immutable" in self.refused("apply", "-f", "-", obj=job | {"spec": {"template": template}})

    def urls(self) -> None:
        """`exec` with a password in its command, and credentials in queries. No kubelet is there to run anything."""
        new = self._needles.awkward
        password = f"--password={new('exec')}"
        self.refused("exec", "shell", "--", "mysql", "--user=root", password, KEPT_FILE)
        self.refused("exec", "shell", "--", "env", f"MYSQL_PWD={new('exec, a variable')}", "mysql")
        self.refused("attach", "shell")
        for name in ("token", "access_token", "password"):
            self._rest("GET", f"{_FOLDER}/pods?limit=1&{name}={self._needles.plain(f'a query, {name}')}")

    def injected(self) -> None:
        """Objects that an admission webhook completes."""
        label = {"labels": LABEL}
        secret = _secret("injected", stringData={"mine": self._needles.awkward("beside what is injected")})
        secret["metadata"] |= label
        self.kubectl("create", "-f", "-", obj=secret)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "injected"} | label}
        self.kubectl("create", "-f", "-", obj=pod | {"spec": _pod_spec("none", "none")})

    def last(self, name: str) -> None:
        """A request after all others."""
        self.kubectl("create", "configmap", name, f"--from-literal=kept={KEPT_URL}")


def patches(needles: Needles) -> dict[str, list[dict[str, Any]]]:
    """What the admission webhook adds."""
    value = _base64(needles.awkward("injected into a Secret"))
    variable = {"name": "VAULT_TOKEN", "value": needles.awkward("injected into a Pod")}
    return {
        "Secret": [{"op": "add", "path": "/data/injected", "value": value}],
        "Pod": [{"op": "add", "path": "/spec/containers/0/env/-", "value": variable}],
    }


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _secret(name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", **fields}


def _pod_spec(variable: str, argument: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example/web:1",
        "args": ["--listen=:8080", KEPT_FILE, f"--password={argument}"],
        "env": [{"name": "DB_PASSWORD", "value": variable}, {"name": "KEYCLOAK_URL", "value": KEPT_URL}],
    }
    return {"containers": [container]}


def _deployment(variable: str, argument: str) -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": _pod_spec(variable, argument)}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
