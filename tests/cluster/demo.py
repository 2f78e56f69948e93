"""`make demo`: from nothing to audit events that somebody can read, on this machine alone.

    root on Linux            a real node: Pods, Services, the image, helm install
    otherwise                the control plane, with operator, gateway and receiver as local processes
    where Docker answers     a kind cluster

With --once it ends by itself: exit code 0 when the events of every user came, 1 with the reason when they did not.
Without, it shows events as they come until Ctrl-C. Either way nothing is left running.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from . import packages
from .binaries import Missing
from .deployment import ROOT, Deployment
from .processes import Failed
from .tier import docker_answers, root_on_linux

QUICKSTART = ROOT / "manifests" / "examples" / "quickstart.yaml"
PEOPLE = {"alice": "platform", "bob": "developers", "mallory": "contractors"}
WAIT = 90


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="auditpipeline-demo-") as folder:
            _show(_choose(options.tier, Path(folder)), once=options.once)
    except (Missing, Failed, packages.Missing) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running")
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end by itself when the events came")
    parser.add_argument("--tier", choices=("auto", "kind", "node", "local"), default="auto", help="what to run on")
    return parser.parse_args(arguments)


def _choose(tier: str, data: Path) -> Deployment:
    if tier == "kind" or (tier == "auto" and docker_answers()):
        from .onkind import KindDeployment

        _say("Docker answers: a kind cluster")
        return KindDeployment(data)
    if tier == "node" or (tier == "auto" and root_on_linux()):
        from .onnode import NodeDeployment

        _say("root on Linux: a real node in namespaces of its own")
        packages.install()
        return NodeDeployment(data)
    from .local import LocalDeployment

    _say("neither root nor Docker: the control plane alone; operator, gateway and receiver run as local processes")
    return LocalDeployment(data)


def _show(deployment: Deployment, *, once: bool) -> None:
    began = time.monotonic()
    with deployment:
        _say(f"cluster, operator and gateway are up after {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        deployment.kubectl("apply", "-f", "-", stdin=QUICKSTART.read_text())
        name = yaml.safe_load(QUICKSTART.read_text())["metadata"]["name"]
        deployment.wait_ready(name, WAIT)
        _say(f"AuditPipeline {name} is Ready {time.monotonic() - began:.1f} s after kubectl apply")
        shown = _traffic_and_events(deployment, name)
        # The operator reads the receivers' counters every ten seconds.
        deployment.wait_for("Delivering", lambda: deployment.condition(name, "Delivering")["status"] == "True", WAIT)
        print(deployment.kubectl("get", "auditpipelines"))
        print(deployment.kubectl("get", "auditpipelines,auditsinks,statefulsets,services,secrets,pods", "-A"))
        if not once:
            _follow(deployment, name, shown)


def _traffic_and_events(deployment: Deployment, name: str) -> int:
    """Make requests as several people, and wait until an event of each has come; how many events were printed."""
    began = time.monotonic()
    _traffic(deployment)
    deployment.wait_for("events of every user", lambda: PEOPLE.keys() <= _users(deployment.events(name)), WAIT)
    events = deployment.events(name)
    _say(f"events of {', '.join(PEOPLE)} arrived {time.monotonic() - began:.1f} s after the first request")
    print("\nTIME      USER                             LEVEL            VERB    WHAT")
    for event in [event for event in events if event["user"]["username"] in PEOPLE]:
        print(readable(event))
    print()
    return len(events)


def _traffic(deployment: Deployment) -> None:
    deployment.kubectl("create", "namespace", "shop")
    for person, group in PEOPLE.items():
        deployment.kubectl(
            *["create", "rolebinding", person, "-n", "shop", f"--user={person}"],
            f"--clusterrole={'view' if person == 'mallory' else 'edit'}",
        )
        kubeconfig = deployment.cluster.user_kubeconfig(person, [group])
        for command in (
            ["create", "configmap", f"{person}-settings", "-n", "shop", "--from-literal=color=blue"],
            ["run", f"{person}-web", "-n", "shop", "--image=none", "--restart=Never"],
            ["get", "secrets", "-n", "shop"],
            ["delete", "configmap", f"{person}-settings", "-n", "shop"],
        ):
            with suppress(Failed):  # a refused request is an event too: mallory may only look
                deployment.kubectl(*command, kubeconfig=kubeconfig)


def _follow(deployment: Deployment, name: str, shown: int) -> None:
    print("Go on in another terminal (Ctrl-C here stops everything):")
    for hint in deployment.hints():
        print(f"  {hint}")
    print(f"  change spec.policy in {QUICKSTART.relative_to(ROOT)} and kubectl apply -f it: it counts within seconds\n")
    while True:
        events = deployment.events(name)
        for event in events[shown:]:
            print(readable(event), flush=True)
        shown = len(events)
        time.sleep(1)


def readable(event: dict[str, Any]) -> str:
    """One line for people: when, who, at which level, what, and how it ended."""
    reference = event.get("objectRef")
    what = event["requestURI"]
    if reference:
        kind = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
        place = f"in {reference['namespace']}" if "namespace" in reference else ""
        what = " ".join(filter(None, (kind, reference.get("name"), place)))
    code = event.get("responseStatus", {}).get("code", "")
    user = event["user"]["username"]
    return f"{event['stageTimestamp'][11:19]}  {user:<32.32} {event['level']:<16} {event['verb']:<7} {what} -> {code}"


def _users(events: Sequence[dict[str, Any]]) -> set[str]:
    return {event["user"]["username"] for event in events}


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
