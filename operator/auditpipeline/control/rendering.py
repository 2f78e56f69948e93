"""What one round makes of its pipeline: the manifests of all children, once for each round."""

from __future__ import annotations

from typing import NamedTuple

from auditpipeline.control import desired, names
from auditpipeline.control.claims import smallest_volume
from auditpipeline.control.hash_key import NO_KEY, HashKey, hash_key
from auditpipeline.control.resources import STATEFULSETS
from auditpipeline.control.rollout import marked, release
from auditpipeline.control.rounds import Round
from auditpipeline.control.serving import metrics_token
from auditpipeline.core import packing
from auditpipeline.core.spec import Pipeline


class Rendered(NamedTuple):
    """The receivers' encoded configuration, their certificate, the key of hashes, and the manifests; no `sink` while it
    is suspended, or if the cluster has none."""

    of: Pipeline
    body: bytes
    tls: desired.Certified
    key: HashKey
    children: list[desired.Manifest]
    sink: desired.Manifest | None

    @property
    def manifests(self) -> list[desired.Manifest]:
        """All of them."""
        return [*self.children, *([self.sink] if self.sink else [])]


async def rendered(this: Round) -> Rendered:
    """The manifests of the pipeline of this round; Invalid if it cannot be rendered."""
    if this.rendered is None or this.rendered.of is not this.pipeline:
        this.rendered = await _render(this)
    return this.rendered


def sink_token(this: Round) -> str:
    """What kube-apiserver shows where it posts to the receivers itself; "" where the gateway does, by certificate."""
    builtin = this.world.features.sinks == "builtin"
    return this.world.authority.token(this.pipeline.metadata.uid) if builtin else ""


async def _render(this: Round) -> Rendered:
    world, pipeline, token = this.world, this.pipeline, sink_token(this)
    egress = world.egress.rendered(world.settings)
    key = await _key(this)
    receiver = desired.receiver_config(
        pipeline,
        token=bool(token),
        canary_user=world.canary.user,
        egress=egress,
        volume=await smallest_volume(this),
        metrics_token=metrics_token(world.settings.metrics_token_file),
        redaction_key_file=key.file,
    )
    body = packing.render(receiver)
    hosts = names.receiver_hosts(this.name, this.namespace)
    leaf = await world.authority.leaf(this.namespace, names.tls_secret(this.name), names.child(this.name), hosts)
    tls = desired.Certified(leaf, world.authority.bundle, token)
    own = release(world.settings, world.features)
    made = desired.children(pipeline, this.namespace, body, tls, world.settings, world.features, key.data)
    children = [marked(child, pipeline, own) if child["kind"] == STATEFULSETS.kind else child for child in made]
    sink = None
    if world.features.sinks != "absent" and not pipeline.spec.suspend:
        sink = desired.audit_sink(
            pipeline, this.namespace, world.authority.bundle, world.settings, world.features, token
        )
    return Rendered(pipeline, body, tls, key, children, sink)


async def _key(this: Round) -> HashKey:
    redaction = this.pipeline.spec.redaction
    if redaction is None or not redaction.hashes:
        return NO_KEY
    return await hash_key(this.world.kube, this.world.settings.namespace)
