"""Against a real API server: the gateway's configuration in several Secrets, and Pods of it that do not answer."""

from __future__ import annotations

import base64
import contextlib
import os
import random
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from auditpipeline.control import names
from auditpipeline.control.desired_gateway import read
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import SECRETS, SINKS
from auditpipeline.control.shards import Written
from auditpipeline.core import packing
from auditpipeline.core.report import Events, Report, RouteReport
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies
from tests.control.running import Operator, Played, eventually, gateway_pod, node, operator, pod, silent_pod
from tests.control.test_reconcile_sinks import until

NOISE = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
TIMES = (datetime(2026, 1, 1), datetime(2036, 1, 1))  # noqa: DTZ001 - as certificates have them

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.filterwarnings("ignore:Sending a large body"),  # of aiohttp, about more than 1 MiB
]


def sink(name: str, kilobytes: int = 0, seed: int = 0, users: int = 0) -> dict[str, Any]:
    """An AuditSink with so many KB of certificates and of user names, which hardly compress."""
    bundle = {"caBundle": base64.b64encode(certificates(kilobytes)).decode()} if kilobytes else {}
    body = bodies.sink(name, url=f"https://{name}.example/{seed}", **bundle)
    if users:
        letters, some = random.Random(seed), "".join(map(chr, range(0x30, 0x7F)))
        names_ = ["".join(letters.choices(some, k=800)) for _ in range(users * 5 // 4)]
        rules = [{"level": "None", "users": names_[at : at + 256]} for at in range(0, len(names_), 256)]
        body["spec"]["policy"]["rules"] = rules
    return body


def certificates(kilobytes: int) -> bytes:
    """PEM certificates of about that size."""
    key, found = ed25519.Ed25519PrivateKey.generate(), b""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    while (left := kilobytes * 1024 - len(found)) > 1000:
        noise = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), os.urandom(min(left, 60000) // 2)
        )
        made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *TIMES)
        found += made.add_extension(noise, critical=False).sign(key, None).public_bytes(Encoding.PEM)
    return found


async def change(kube: Client, body: dict[str, Any]) -> None:
    """Have a sink say what `body` says."""
    assert await kube.patch(SINKS, body["metadata"]["name"], {"spec": body["spec"]})


async def shards(kube: Client, namespace: str) -> list[Written]:
    """What the Secrets hold, the head first."""
    found: list[Written] = []
    while secret := await kube.get(SECRETS, names.gateway_config_secret(len(found)), namespace):
        version = (namespace, secret["metadata"]["name"], secret["metadata"]["resourceVersion"])
        known = _read.get(version) or read(len(found), secret)
        assert known
        _read[version] = known
        found.append(known)
    return found


_read: dict[tuple[str, str, str], Written] = {}


async def places(kube: Client, namespace: str) -> dict[str, list[int]]:
    """The shards that each route is in; -1 stands for one that it is moving from."""
    found: dict[str, list[int]] = {}
    for number, shard in enumerate(await shards(kube, namespace)):
        for name in shard.held.routes:
            found.setdefault(name, []).append(-1 if name in shard.held.moving else number)
    return found


async def placed(kube: Client, namespace: str, wanted: dict[str, list[int]]) -> None:
    """Wait until the routes are there."""

    async def same() -> bool:
        last.clear()
        last.update(await places(kube, namespace))
        return last == wanted

    last: dict[str, list[int]] = {}
    try:
        await eventually(f"places {wanted}", same)
    except AssertionError as error:
        raise AssertionError(f"{error}; they are {last}") from None


async def report(kube: Client, namespace: str) -> Report:
    """That of a gateway that runs all that the Secrets hold."""
    found = await shards(kube, namespace)
    routes = {
        name: RouteReport(name, route.uid, packing.route_digest(route), number)
        for number, shard in reversed(list(enumerate(found)))
        for name, route in shard.held.routes.items()
        if name not in shard.held.moving
    }
    return Report("gateway", "gateway", found[0].digest, Events(), (), routes=tuple(routes.values()))


@contextlib.asynccontextmanager
async def gateway(
    served: ControlPlane, kube: Client, namespace: str, **settings: Any
) -> AsyncIterator[tuple[Operator, Played]]:
    """An operator, and a gateway's Pod that runs what is rendered at its start."""
    async with operator(served.kubeconfig, namespace, **settings) as running:
        await eventually("configured", lambda: kube.get(SECRETS, names.gateway_config_secret(0), namespace))
        await eventually("certified", lambda: kube.get(SECRETS, names.GATEWAY_TLS_SECRET, namespace))
        await gateway_pod(kube, namespace)
        said = await report(kube, namespace)
        async with pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, said) as played:
            yield running, played


async def taken(kube: Client, namespace: str, played: Played, *sinks: str) -> None:
    """Have the gateway run all that is rendered, until these sinks are registered."""

    async def registered() -> bool:
        played.report = await report(kube, namespace)
        found = [(await kube.get(SINKS, name) or {}).get("status", {}).get("conditions", []) for name in sinks]
        reasons = [entry["reason"] for conditions in found for entry in conditions if entry["type"] == "Ready"]
        return reasons == ["Registered"] * len(sinks)

    await eventually(f"{sinks} registered", registered)


async def test_sinks_that_do_not_fit_into_one_secret_are_in_several(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """Three of 645 KB keep no other tenant's from its route, and a sink that is deleted loses its route. After a
    restart each is where it was."""
    async with gateway(served, kube, namespace) as (_, played):
        await kube.create(SINKS, sink("first", 645))
        await placed(kube, namespace, {"first": [0]})
        for name in ("second", "third"):
            await kube.create(SINKS, sink(name, 645))
        await kube.create(SINKS, sink("small"))
        await taken(kube, namespace, played, "first", "second", "third", "small")
        before = await places(kube, namespace)
        assert sorted(before.values()) == [[0], [0], [1], [2]]
        await kube.delete(SINKS, "first")
        del before["first"]
        await placed(kube, namespace, before)
    async with operator(served.kubeconfig, namespace):
        await kube.create(SINKS, sink("late"))
        await placed(kube, namespace, before | {"late": [0]})


async def test_a_sink_that_outgrows_its_secret_moves_when_the_gateways_have_it(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """It is in both until then, also for an operator that starts meanwhile."""
    large, small = sink("large", 700), sink("mover")
    async with gateway(served, kube, namespace) as (_, played):
        for body in (large, small):
            await kube.create(SINKS, body)
        await taken(kube, namespace, played, "large", "mover")
        assert await places(kube, namespace) == {"large": [0], "mover": [0]}
        await change(kube, sink("mover", 700, 1))
        await placed(kube, namespace, {"large": [0], "mover": [-1, 1]})
        await until(kube, "mover", "False", "GatewayPending")
        await until(kube, "large", "True", "Registered")
    async with operator(served.kubeconfig, namespace) as running:
        await eventually("looked", lambda: running.writes_during(2))
        assert await places(kube, namespace) == {"large": [0], "mover": [-1, 1]}
        said = await report(kube, namespace)
        async with pod(kube, namespace, "gateway", names.GATEWAY_TLS_SECRET, names.GATEWAY_OPS_PORT, said):
            await placed(kube, namespace, {"large": [0], "mover": [1]})
            await until(kube, "mover", "True", "Registered")


async def test_a_sink_that_is_too_large_is_refused_by_itself(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """With the reason; one that could be used before keeps its route, and all others come, change and go."""
    async with gateway(served, kube, namespace) as (_, played):
        await kube.create(SINKS, sink("grows"))
        await kube.create(SINKS, sink("goes"))
        await taken(kube, namespace, played, "grows", "goes")
        await change(kube, sink("grows", 760, 1, users=450))
        await kube.create(SINKS, sink("huge", 760, users=450))
        await kube.create(SINKS, sink("late"))
        await kube.delete(SINKS, "goes")
        for name in ("huge", "grows"):
            found = await until(kube, name, "False", "SinkRefused")
            assert "too large for the gateway" in found["message"]
        await placed(kube, namespace, {"grows": [0], "late": [0]})
        await taken(kube, namespace, played, "late")
        (head,) = await shards(kube, namespace)
        output = head.held.routes["grows"].output
        assert "https://grows.example/0" in str(output)


async def test_a_secret_that_cannot_be_written_costs_its_own_changes_alone(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """One of a kind that cannot be changed: new routes go on in the next."""
    name = names.gateway_config_secret(1)
    labels = names.gateway_labels()
    body = {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "immutable": True, "data": {}}
    await kube.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **body})
    async with operator(served.kubeconfig, namespace):
        await kube.create(SINKS, sink("first", 700))
        await kube.create(SINKS, sink("second", 700))
        await kube.create(SINKS, sink("small"))

        async def there() -> bool:
            secrets = [await kube.get(SECRETS, names.gateway_config_secret(number), namespace) for number in (0, 2)]
            known = [read(number, secret) if secret else None for number, secret in zip((0, 2), secrets, strict=True)]
            return {route for found in known if found for route in found.held.routes} == {"first", "second", "small"}

        await eventually("all of them", there)


async def test_what_somebody_writes_into_a_shard_does_not_stay(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """As in the head; one that is deleted comes back."""
    async with operator(served.kubeconfig, namespace):
        for name in ("first", "second"):
            await kube.create(SINKS, sink(name, 700))
        await placed(kube, namespace, {"first": [0], "second": [1]})
        secret = names.gateway_config_secret(1)
        await kube.patch(SECRETS, secret, {"data": {packing.shard_key(1): base64.b64encode(b"x").decode()}}, namespace)

        async def mended() -> bool:
            found = await kube.get(SECRETS, secret, namespace)
            return bool(found and read(1, found))

        await eventually("mended", mended)
        await kube.delete(SECRETS, secret, namespace)
        await eventually("back", mended)
        await placed(kube, namespace, {"first": [0], "second": [1]})


async def test_twenty_changes_of_one_sink_move_no_condition_of_another(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """The gateway's Pod still runs what was rendered before all of them."""
    async with gateway(served, kube, namespace) as (_, played):
        await kube.create(SINKS, sink("still"))
        await kube.create(SINKS, sink("busy"))
        await taken(kube, namespace, played, "still", "busy")
        before = (await kube.get(SINKS, "still") or {})["status"]
        for number in range(1, 21):
            await change(kube, sink("busy", seed=number))

            async def written(number: int = number) -> bool:
                return f"/{number}'" in str((await shards(kube, namespace))[0].held.routes["busy"].output)

            await eventually(f"change {number}", written)
        await until(kube, "busy", "False", "GatewayPending")
        assert (await kube.get(SINKS, "still") or {})["status"] == before


async def test_a_gateway_that_does_not_answer_is_named_and_the_others_count(
    served: ControlPlane, kube: Client, namespace: str
) -> None:
    """One whose node is not ready is left aside; if none answers, nothing is claimed."""
    await node(kube, namespace, ready=True)
    async with gateway(served, kube, namespace) as (_, played):
        await kube.create(SINKS, sink("a"))
        await taken(kube, namespace, played, "a")
        await gateway_pod(kube, namespace, "other", node=namespace)
        await silent_pod(kube, namespace, "other")
        found = await until(kube, "a", "True", "PartlyRegistered")
        assert "1 of 2 gateway Pods post events; gateway Pod other does not answer: " in found["message"]
        await node(kube, namespace, ready=False)

        async def aside() -> bool:
            message = (await until(kube, "a", "True", "PartlyRegistered"))["message"]
            return bool(message.endswith("; gateway Pod other is left aside: its node is not ready"))

        await eventually("left aside", aside)
        await played.runner.cleanup()
        await until(kube, "a", "Unknown", "GatewayUnreachable")
