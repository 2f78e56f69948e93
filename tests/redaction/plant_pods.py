"""Secrets in the environment and the arguments of Pods, and of all objects that make Pods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.redaction.events import LAST_APPLIED, Event, Resource, applied, event, listed, named, table
from tests.redaction.marks import Mint
from tests.redaction.plant_patches import APPLIED_POINTER, by_webhook, operation
from tests.redaction.spelling import STYLES, Pairs, Spelt, spelt, text

Object = dict[str, Any]


class Workload(NamedTuple):
    """An object that makes Pods, and the keys on the way to the spec of a Pod in it."""

    resource: Resource
    way: tuple[str, ...]


TEMPLATE = ("spec", "template", "spec")
WORKLOADS = (
    Workload(Resource("pods", "Pod"), ("spec",)),
    Workload(Resource("deployments", "Deployment", "apps"), TEMPLATE),
    Workload(Resource("statefulsets", "StatefulSet", "apps"), TEMPLATE),
    Workload(Resource("daemonsets", "DaemonSet", "apps"), TEMPLATE),
    Workload(Resource("replicasets", "ReplicaSet", "apps"), TEMPLATE),
    Workload(Resource("deployments", "Deployment", "extensions", "v1beta1"), TEMPLATE),
    Workload(Resource("jobs", "Job", "batch"), TEMPLATE),
    Workload(Resource("cronjobs", "CronJob", "batch"), ("spec", "jobTemplate", *TEMPLATE)),
    Workload(Resource("replicationcontrollers", "ReplicationController"), TEMPLATE),
    Workload(Resource("podtemplates", "PodTemplate"), ("template", "spec")),
    Workload(Resource("controllerrevisions", "ControllerRevision", "apps"), ("data", *TEMPLATE)),
    Workload(Resource("rollouts", "Rollout", "argoproj.io", "v1alpha1"), TEMPLATE),
    Workload(Resource("services", "Service", "serving.knative.dev"), TEMPLATE),
    Workload(Resource("revisions", "Revision", "serving.knative.dev"), ("spec",)),
    Workload(Resource("sparkapplications", "SparkApplication", "sparkoperator.k8s.io", "v1beta2"), ("spec", "driver")),
    Workload(Resource("deploymentconfigs", "DeploymentConfig", "apps.openshift.io"), TEMPLATE),
)
PODS = WORKLOADS[0].resource
NAMES = {
    "*PASSWORD*": ("DB_PASSWORD", "PASSWORD", "PGPASSWORD", "password", "Db_Password", "MYSQL_ROOT_PASSWORD_1"),
    "*TOKEN*": ("API_TOKEN", "TOKEN", "github_token", "VAULT_TOKEN_1", "Token"),
    "*SECRET*": ("CLIENT_SECRET", "SECRET", "AWS_SECRET_ACCESS_KEY", "secret", "COOKIE_SECRET_2"),
    "*_KEY": ("STRIPE_KEY", "API_KEY", "encryption_key", "Private_Key"),
}
CONTROLS = {
    "KEYCLOAK_URL": "https://keycloak.example.com/auth?realm=team",
    "KEYBOARD": "qwertz",
    "MONKEY": "banana",
    "KEY_SIZE": "4096",
    "LOG_LEVEL": "debug",
    "DB_PASSWORD_FILE": "/run/secrets/db",
    "API_KEY_PATH": "/etc/keys/api",
}
REFERENCE = {"name": "db-credentials", "key": "password"}


def variable(mint: Mint, name: str, value: str) -> Any:
    """An environment variable; the order of its keys is its author's."""
    pairs = [("name", name), ("value", value)]
    return dict(pairs if mint.often(0.7) else reversed(pairs))


def environment(mint: Mint, kind: str | None = None) -> list[Any]:
    """Variables, of which at least one is secret."""
    kinds = [kind] if kind else mint.chance.sample(list(NAMES), 2)
    found = [variable(mint, mint.pick(*NAMES[each]), mint.text()) for each in kinds]
    found += [variable(mint, *mint.pick(*CONTROLS.items())) for _ in range(2)]
    found.append({"name": "PASSWORD_OF_OTHER", "valueFrom": {"secretKeyRef": dict(REFERENCE)}})
    mint.chance.shuffle(found)
    return found


def container(mint: Mint, **fields: Any) -> Object:
    """A container, with a secret environment unless it is said what else."""
    return {"name": "app", "image": "registry.example.com/app:1.2", **(fields or {"env": environment(mint)})}


def pod_spec(mint: Mint, secret: Object | None = None) -> Object:
    """A Pod's spec, in which one of the containers is this one."""
    place = mint.pick("containers", "initContainers", "ephemeralContainers")
    harmless = {"name": "side", "image": "registry.example.com/side:1", "args": ["--key-file=/x", "--verbose"]}
    return {"restartPolicy": "Always", "containers": [harmless], place: [harmless, secret or container(mint)]}


def made_of(workload: Workload, spec: Any) -> Object:
    """The object of that kind, around a Pod's spec."""
    for key in reversed(workload.way):
        spec = {key: spec}
        if key == "template":
            spec[key]["metadata"] = {"labels": {"app": "db"}}
    return named(workload.resource, spec)


def whole(mint: Mint, workload: Workload, secret: Object | None = None) -> Object:
    """An object of that kind with a secret in it."""
    return made_of(workload, pod_spec(mint, secret))


def in_bodies(mint: Mint, workload: Workload, secret: Object | None = None) -> Event:
    """A create, an update or an answer."""
    verb = mint.pick("create", "update", "get", "patch", "delete")
    made = whole(mint, workload, secret)
    request = made if verb in ("create", "update") else None
    of = (
        workload.resource._replace(subresource=mint.pick("", "", "status"))
        if verb in ("update", "patch")
        else workload.resource
    )
    return event(mint, verb, of, request, made if request is None or mint.often() else None)


def in_last_applied(mint: Mint, workload: Workload) -> Event:
    """An object that only repeats what was applied."""
    repeating = named(workload.resource, {}, annotations=applied(mint, whole(mint, workload)))
    verb = mint.pick("create", "update", "patch", "get")
    asked = verb in ("create", "update")
    return event(mint, verb, workload.resource, repeating if asked else None, None if asked else repeating)


def in_list(mint: Mint, workload: Workload) -> Event:
    """Several of them."""
    found = [whole(mint, workload), whole(mint, workload)]
    verb = mint.pick("list", "deletecollection")
    return event(
        mint, verb, workload.resource, None, mint.one_of(lambda: listed(workload.resource, found), lambda: table(found))
    )


def json_patch(mint: Mint, workload: Workload) -> list[Any]:
    """Operations on a Pod's spec, at every height of it."""
    base = "/" + "/".join(workload.way)
    first = f"{base}/{mint.pick('containers', 'initContainers')}/0"
    name = mint.pick(*NAMES[mint.pick(*NAMES)])
    choices: tuple[Callable[[], Any], ...] = (
        lambda: operation(mint, f"{first}/env/{mint.pick('0', '-')}", variable(mint, name, mint.text())),
        lambda: operation(mint, f"{first}/env", environment(mint)),
        lambda: operation(mint, first, container(mint)),
        lambda: operation(mint, f"{base}/containers", [container(mint)]),
        lambda: operation(mint, base, pod_spec(mint)),
        lambda: operation(mint, "", whole(mint, workload)),
        lambda: operation(mint, f"{first}/args/0", f"--password={mint.word()}"),
        lambda: operation(mint, f"{first}/args", ["--verbose", "--password", mint.word()]),
        lambda: operation(mint, APPLIED_POINTER, text(whole(mint, workload))),
    )
    harmless = operation(mint, f"{first}/image", "registry.example.com/app:1.3", "replace")
    return [mint.one_of(*choices), harmless]


def merge(mint: Mint, workload: Workload) -> Object:
    """A merge patch: the same as the object, with less in it."""
    made = whole(mint, workload)
    return {key: value for key, value in made.items() if key not in ("kind", "apiVersion", "metadata")}


def strategic(mint: Mint, workload: Workload) -> Object:
    """What `kubectl set env` and `kubectl apply` send."""
    env = environment(mint)
    order = [{"name": each["name"]} for each in env]
    inner = {"name": "app", "$setElementOrder/env": order, "env": env}
    made = made_of(workload, {"$setElementOrder/containers": [{"name": "app"}], "containers": [inner]})
    del made["kind"], made["apiVersion"]
    made["metadata"] = {"annotations": {LAST_APPLIED: text(whole(mint, workload))}} if mint.often() else {}
    return made


def apply(mint: Mint, workload: Workload) -> Object:
    """A server-side apply."""
    return whole(mint, workload)


PATCHES: dict[str, Callable[[Mint, Workload], Any]] = {
    "JSON patch": json_patch,
    "merge patch": merge,
    "strategic merge patch": strategic,
    "apply patch": apply,
}


def patched(mint: Mint, workload: Workload, patch: Callable[[Mint, Workload], Any]) -> Event:
    """A patch that one of these makes."""
    return event(mint, "patch", workload.resource, patch(mint, workload))


FORMS: dict[str, Callable[..., Event]] = {
    "env": in_bodies,
    "args": lambda mint, workload: in_bodies(
        mint, workload, container(mint, args=["serve", f"--password={mint.word()}"])
    ),
    "last-applied": in_last_applied,
    "list or Table": in_list,
    "webhook's patch": lambda mint, workload: by_webhook(mint, workload.resource, json_patch(mint, workload)),
    **{name: partial(patched, patch=patch) for name, patch in PATCHES.items()},
}


def by_name(mint: Mint, pattern: str) -> Event:
    """A variable whose name is of that class."""
    return in_bodies(mint, mint.pick(*WORKLOADS), container(mint, env=environment(mint, pattern)))


def value_by_index(mint: Mint) -> Event:
    """A patch that gives a variable another value, and does not say its name."""
    workload = mint.pick(*WORKLOADS)
    pointer = "/" + "/".join((*workload.way, "containers", "0", "env", "2", "value"))
    return event(mint, "patch", workload.resource, [operation(mint, pointer, mint.text())])


def twice(mint: Mint) -> Event:
    """A variable whose keys come twice: the last one counts, and a line must not hold the others either."""
    values = [
        Pairs([("name", "A"), ("name", "DB_PASSWORD"), ("value", mint.text())]),
        Pairs([("value", mint.text()), ("name", "DB_PASSWORD"), ("value", "")]),
    ]
    return event(mint, "patch", PODS, made_of(WORKLOADS[0], {"containers": [{"name": "app", "env": values}]}))


def probed(mint: Mint) -> Event:
    """Commands of probes and hooks, and the headers that a probe sends."""
    probe = {"exec": {"command": ["sh", "-c", f"PGPASSWORD={mint.word()} pg_isready"]}, "periodSeconds": 10}
    hook = {"preStop": {"exec": {"command": ["curl", "-u", f"admin:{mint.word()}", "http://localhost/stop"]}}}
    headers = [{"name": "Authorization", "value": f"Bearer {mint.word()}"}, {"name": "Accept", "value": "text/plain"}]
    ready = {"httpGet": {"path": "/ready", "port": 8080, "httpHeaders": headers}}
    return in_bodies(
        mint, mint.pick(*WORKLOADS), container(mint, livenessProbe=probe, lifecycle=hook, readinessProbe=ready)
    )


def ephemeral(mint: Mint) -> Event:
    """What `kubectl debug` adds: as a patch of a Pod, and in the kind that 1.16 to 1.21 have for it."""
    of = PODS._replace(subresource="ephemeralcontainers")
    debug = container(mint, env=environment(mint), command=["sh", "-c", f"PGPASSWORD={mint.word()} psql"])
    if mint.often():
        return event(mint, "patch", of, {"spec": {"ephemeralContainers": [debug]}})
    former = of._replace(kind="EphemeralContainers")
    return event(mint, "update", former, named(former, {"ephemeralContainers": [debug]}))


def the_same_again(mint: Mint) -> Event:
    """Pods of one template: the same secrets several times, in containers, in what was applied, and in a list."""
    workload = mint.pick(*WORKLOADS[:9])
    secret = container(mint, env=environment(mint), args=["serve", f"--password={mint.word()}"])
    spec = {"containers": [secret, secret | {"name": "b"}], "initContainers": [secret | {"command": ["sh"]}]}
    made = made_of(workload, spec)
    made["metadata"]["annotations"] = applied(mint, made)
    verb = mint.pick("create", "update", "list", "patch")
    answer = (
        mint.one_of(lambda: listed(workload.resource, [made] * 3), lambda: table([made] * 3))
        if verb == "list"
        else made
    )
    return event(mint, verb, workload.resource, None if verb == "list" else made, answer)


def applied_within(mint: Mint) -> Event:
    """What was applied, in the annotations of a template, and in those of what was applied."""
    workload = mint.pick(*(each for each in WORKLOADS if "template" in each.way))
    made = made_of(workload, {"containers": [{"name": "app", "env": []}]})
    template: Any = made
    for key in workload.way[:-1]:
        template = template[key]
    key = mint.pick(LAST_APPLIED, LAST_APPLIED, "kapp.k14s.io/original")
    template["metadata"]["annotations"] = {key: text(whole(mint, WORKLOADS[0]))}
    if mint.often():
        made = named(workload.resource, {}, annotations=applied(mint, made))
    return event(mint, mint.pick("create", "update", "patch"), workload.resource, made, made)


def revised(mint: Mint) -> Event:
    """ControllerRevisions of others: their data is what a client sent, in whatever place and spelling."""
    of = Resource("controllerrevisions", "ControllerRevision", "apps")
    spec = mint.pick("leaderWorkerTemplate", "template", "virtualMachineSpec")
    made = named(
        of, {"data": Spelt(spelt({"spec": {spec: {"workerTemplate": {"spec": pod_spec(mint)}}}}, mint.pick(*STYLES)))}
    )
    verb = mint.pick("create", "update", "get", "list")
    asked = verb in ("create", "update")
    answer = listed(of, [made]) if verb == "list" else made
    return event(mint, verb, of, made if asked else None, None if asked else answer)


def applied_twice(mint: Mint) -> Event:
    """What was applied, in whose text a key comes twice."""
    spec = Pairs([("containers", [container(mint)]), ("containers", [container(mint)])])
    annotations = {LAST_APPLIED: text(Pairs([("kind", "Pod"), ("spec", spec)]))}
    return event(mint, mint.pick("create", "update", "patch"), PODS, named(PODS, {}, annotations=annotations))


def alone(mint: Mint) -> Event:
    """Objects of others that hold containers by other names: one by itself, and steps."""
    workflow = Resource("workflows", "Workflow", "argoproj.io", "v1alpha1")
    task = Resource("tasks", "Task", "tekton.dev")
    of, spec = mint.one_of(
        lambda: (workflow, {"templates": [{"name": "a", "container": container(mint)}]}),
        lambda: (workflow, {"templates": [{"name": "a", "script": container(mint) | {"source": "exit"}}]}),
        lambda: (task, {"steps": [container(mint)], "sidecars": [container(mint)]}),
    )
    made = named(of, {"spec": spec})
    return event(mint, mint.pick("create", "update"), of, made, made)


def url_in_variable(mint: Mint) -> Event:
    """A variable whose name says nothing, and whose value is a URL with a password."""
    url = (
        f"{mint.pick('postgres', 'amqp', 'redis', 'https', 'mongodb+srv')}://app:{mint.word()}@db.example.com:5432/app"
    )
    env = [variable(mint, mint.pick("DATABASE_URL", "BROKER", "DSN"), url)]
    return in_bodies(mint, mint.pick(*WORKLOADS), container(mint, env=env))


def called(workload: Workload) -> str:
    """The workload, in the name of a kind."""
    return f"{workload.resource.plural}.{workload.resource.group}".rstrip(".")


KINDS: dict[str, Callable[[Mint], Event]] = {
    **{
        f"{called(workload)}: {name}": partial(form, workload=workload)
        for workload in WORKLOADS
        for name, form in FORMS.items()
    },
    **{f"env named {pattern}": partial(by_name, pattern=pattern) for pattern in NAMES},
    "env: a value by its index": value_by_index,
    "env: keys that come twice": twice,
    "env: a URL with a password": url_in_variable,
    "probes and hooks": probed,
    "pods/ephemeralcontainers": ephemeral,
    "containers by other names": alone,
    "last-applied within": applied_within,
    "the same again": the_same_again,
    "controllerrevisions.apps: templates of others": revised,
    "pods: last-applied with keys that come twice": applied_twice,
}
