"""An event that a destination finds too large, without its bodies: what is left says who did what, and what was cut.

kube-apiserver's truncating backend does the same (k8s.io/apiserver/plugin/pkg/audit/truncate), with another annotation.
"""

from __future__ import annotations

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event, encode_line

ANNOTATION = "auditpipeline.dev/truncated"
_BODIES = ("requestObject", "responseObject")
_ANNOTATIONS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_NONE = msgspec.Raw(b"null")


def truncated(line: bytes) -> bytes | None:
    """The event without its bodies, annotated with their names; None where it has none, or cannot be read."""
    try:
        event = decode_event(line)
        annotations = _ANNOTATIONS.decode(event.get("annotations", _NONE)) or {}
    except (Permanent, ValueError):
        return None
    cut = [field for field in _BODIES if field in event]
    if not cut:
        return None
    kept = {field: value for field, value in event.items() if field not in cut}
    marked = {**annotations, ANNOTATION: msgspec.Raw(msgspec.json.encode(",".join(cut)))}
    return encode_line({**kept, "annotations": msgspec.Raw(msgspec.json.encode(marked))})
