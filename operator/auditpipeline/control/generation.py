"""The last generation of an AuditPipeline that was accepted, as a Secret of the pipeline keeps it. Pure.

    dry run succeeds --> Accepted(spec, generation, inputs) --> Secret audit-NAME-generation:
                             generation.json.gz   at most PACKED bytes, INFLATED before compression
                             seal                 an HMAC of it under the authority's key

While a newer generation is refused, this one stays in force, also after a restart of the operator. The seal keeps
whoever may write Secrets in that namespace from putting another spec in its place: a Secret without a good seal counts
as none.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hmac
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from auditpipeline.control import desired, names
from auditpipeline.control.desired_pod import metadata
from auditpipeline.core.spec import Pipeline

CONTENT, SEAL = "generation.json.gz", "seal"
PACKED, INFLATED = 900 * 2**10, 8 * 2**20
"""Bytes: a Secret holds 1 MiB, and no API server stores an object of more than 3 MiB."""

Sealer = Callable[[bytes], str]


class Accepted(msgspec.Struct, frozen=True):
    """A generation of the AuditPipeline with this UID; `inputs` names what was made of it and dry-run."""

    uid: str
    generation: int
    inputs: str
    spec: dict[str, Any]


def inputs(generation: int, manifests: Sequence[desired.Manifest]) -> str:
    """The name of a generation and of what is made of it: another image of the operator is another one, a renewed
    certificate is not."""
    return desired.digest({"generation": generation, "manifests": [_shape(manifest) for manifest in manifests]})


def secret(pipeline: Pipeline, namespace: str, accepted: Accepted, seal: Sealer) -> desired.Manifest | None:
    """The Secret that keeps `accepted`; None if it is too large for one."""
    content = msgspec.json.encode(accepted, order="deterministic")
    packed = gzip.compress(content, mtime=0)
    if len(packed) > PACKED or len(content) > INFLATED:
        return None
    meta = metadata(pipeline, names.generation_secret(pipeline.metadata.name), namespace)
    return desired.secret(meta, {CONTENT: packed, SEAL: seal(packed).encode()})


def stored(body: Mapping[str, Any], uid: str, seal: Sealer) -> Accepted | None:
    """What a Secret keeps of the AuditPipeline with this UID; None if that is not what was written there."""
    data = body.get("data") or {}
    try:
        packed, found = (base64.b64decode(data[key], validate=True) for key in (CONTENT, SEAL))
        if not hmac.compare_digest(found, seal(packed).encode()):
            return None
        accepted = msgspec.json.decode(_inflated(packed), type=Accepted)
    except (KeyError, binascii.Error, TypeError, OSError, EOFError, zlib.error, msgspec.DecodeError, RecursionError):
        return None
    return accepted if accepted.uid == uid else None


def _inflated(packed: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        return stream.read(INFLATED)


def _shape(manifest: desired.Manifest) -> desired.Manifest:
    """A manifest without what is renewed while its generation stays the same."""
    if manifest["kind"] == "Secret":
        return {key: value for key, value in manifest.items() if key != "data"}
    if manifest["kind"] != "AuditSink":
        return manifest
    spec = manifest["spec"]
    webhook = {**spec["webhook"], "clientConfig": {**spec["webhook"]["clientConfig"], "caBundle": ""}}
    return {**manifest, "spec": {**spec, "webhook": webhook}}
