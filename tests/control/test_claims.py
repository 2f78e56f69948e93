"""A larger spec.webhook.storage.size: the spool is never larger than the volumes that there are, and claims follow."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.claims import expand_claims, smallest_volume
from auditpipeline.control.desired import receiver_config
from auditpipeline.control.facts import Facts
from auditpipeline.control.kube import Client
from auditpipeline.control.resources import CLAIMS, PIPELINES, SECRETS, STORAGE_CLASSES, Resource
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.core import config
from auditpipeline.core.spec import parse_pipeline
from tests.cluster.controlplane import ControlPlane
from tests.control import bodies, fakes
from tests.control.running import condition, eventually, operator
from tests.control.test_reconcile_objects import create

VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
GIB = 2**30
STDOUT: dict[str, Any] = {"stdout": {}}


def claim(number: int, size: str = "2Gi", capacity: str = "2Gi", **spec: Any) -> dict[str, Any]:
    """The claim of one Pod; without a capacity it is not bound yet."""
    status = {"phase": "Bound", "capacity": {"storage": capacity}} if capacity else {"phase": "Pending"}
    return {
        "metadata": {"name": f"data-audit-security-{number}"},
        "spec": {"resources": {"requests": {"storage": size}}, "storageClassName": "fast"} | spec,
        "status": status,
    }


async def look(*claims: dict[str, Any], allows: bool = True, **storage: Any) -> tuple[int | None, str, list[Any]]:
    """One look: the smallest volume, what is said of it, and what was written."""
    objects = {("persistentvolumeclaims", body["metadata"]["name"]): body for body in claims}
    kube = fakes.Answers(objects | {("storageclasses", "fast"): {"allowVolumeExpansion": allows}})
    body = bodies.pipeline(webhook={"replicas": 2, "storage": {"size": "50Gi"} | storage})
    this = Round(await fakes.world(kube), body, Facts(3, fakes.now()), parsed=parse_pipeline(body))
    kube.written.clear()
    found = await smallest_volume(this)
    await expand_claims(this)
    return found, "; ".join(this.facts.notes), kube.written


@pytest.mark.parametrize(
    ("claims", "smallest"),
    [
        ([], None),
        ([claim(0, "50Gi", "50Gi"), claim(1, "50Gi", "50Gi")], 50 * GIB),
        ([claim(0, "50Gi", "50Gi"), claim(1)], 2 * GIB),
        ([claim(0, "50Gi", "60Gi"), claim(7)], 60 * GIB),
        ([claim(0, "3Gi", "")], 3 * GIB),
    ],
    ids=["none", "all large", "one small", "one of a Pod that is not wanted", "not bound"],
)
async def test_the_smallest_volume_of_the_pods_that_are_wanted_counts(
    claims: list[dict[str, Any]], smallest: int | None
) -> None:
    """By its capacity; before it is bound, by what it asks for."""
    assert (await look(*claims))[0] == smallest


async def test_a_claim_is_expanded_if_its_storage_class_allows_it() -> None:
    """Once: one that asks already is waited for. One that is not bound cannot be changed."""
    grown = {"spec": {"resources": {"requests": {"storage": "50Gi"}}}}
    _, note, written = await look(claim(0), claim(1, "50Gi"))
    assert written == [grown]
    assert "data-audit-security-0, data-audit-security-1 is smaller" in note
    assert "until it is expanded" in note
    assert (await look(claim(0, capacity="")))[2] == []


async def test_otherwise_the_status_says_what_to_do() -> None:
    """The claims are left as they are."""
    for found in (await look(claim(0), allows=False), await look(claim(0, storageClassName=""))):
        assert found[2] == []
        assert "delete the claim and then its Pod once nothing waits there" in found[1]


async def test_an_ephemeral_volume_has_the_size_of_its_pod() -> None:
    """Claims are not looked at. A Pod that is yet to be replaced has the size of before, which it must not exceed."""
    assert await look(claim(0), ephemeral=True) == (None, "", [])
    kube = fakes.Answers()
    world, body = await fakes.world(kube), bodies.pipeline(webhook={"storage": {"ephemeral": True, "size": "50Gi"}})
    for number, size in enumerate(("50Gi", "2Gi")):
        meta = {
            "name": f"audit-security-{number}",
            "namespace": world.settings.namespace,
            "labels": names.labels("security"),
        }
        pod = {"metadata": meta, "spec": {"volumes": [{"name": "data", "emptyDir": {"sizeLimit": size}}]}}
        world.seen.put(key_of("pods", pod), entry_of("pods", pod))
    this = Round(world, body, Facts(3, fakes.now()), parsed=parse_pipeline(body))
    assert await smallest_volume(this) == 2 * GIB


@pytest.mark.parametrize(("volume", "files", "expected"), [(None, 0, 40.0), (2 * GIB, 0, 1.6), (2 * GIB, 9, 0.03125)])
def test_the_spools_limit_follows_the_volume(volume: int | None, files: int, expected: float) -> None:
    """Also where the files of the outputs would take all of a small one."""
    file = {"file": {"path": "/var/log/o/o.jsonl", "maxSize": "1Gi", "keep": files}}
    outputs = [{"name": "o"} | (file if files else STDOUT)]
    body = bodies.pipeline(webhook={"storage": {"size": "50Gi"}}, outputs=outputs)
    rendered = receiver_config(parse_pipeline(body), volume=volume)
    assert rendered.spool.max_bytes == pytest.approx(expected * GIB, rel=0.02)


async def spool_bytes(kube: Client, namespace: str) -> int:
    stored = await kube.get(SECRETS, "audit-a-config", namespace) or {"data": {}}
    body = base64.b64decode(stored["data"].get("config.json", ""))
    return config.decode(body).spool.max_bytes if body else 0


@pytest.mark.controlplane
@pytest.mark.parametrize("allows", [True, False])
async def test_a_larger_size_does_not_lift_the_limit_before_the_volume_grows(
    served: ControlPlane, kube: Client, namespace: str, allows: bool
) -> None:
    """The limit stays at the volume's size; a claim that may grow asks for more, and the limit follows it."""
    kind = f"class-{namespace}"
    await kube.create(STORAGE_CLASSES, bodies.storage_class(kind, grows=allows))
    async with operator(served.kubeconfig, namespace):
        storage = {"size": "2Gi", "storageClassName": kind}
        await create(kube, webhook={"replicas": 1, "storage": storage}, outputs=[{"name": "o"} | STDOUT])
        name = "data-audit-a-0"

        async def claimed() -> Any:
            return await kube.get(CLAIMS, name, namespace)

        await eventually("a claim", claimed)
        await kube.create(VOLUMES, bodies.volume(f"volume-{namespace}", kind, name, namespace))

        async def bound() -> bool:
            return bool((await claimed() or {}).get("status", {}).get("phase") == "Bound")

        await eventually("bound", bound)
        await kube.patch(PIPELINES, "a", {"spec": {"webhook": {"storage": {"size": "50Gi"}}}})

        async def told() -> bool:
            return "is smaller than spec.webhook.storage.size" in (await condition(kube, "a", "Ready")).get(
                "message", ""
            )

        await eventually("told", told)
        asked = (await claimed())["spec"]["resources"]["requests"]["storage"]
        assert (asked, await spool_bytes(kube, namespace)) == ("50Gi" if allows else "2Gi", int(2 * GIB * 0.8))
        if allows:
            await kube.patch_status(CLAIMS, name, {"capacity": {"storage": "50Gi"}}, namespace)

            async def lifted() -> bool:
                return await spool_bytes(kube, namespace) == int(50 * GIB * 0.8)

            await eventually("lifted", lifted)
