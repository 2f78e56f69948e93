"""An event that a destination finds too large, without its bodies: what is left says who did what, and what was cut.

kube-apiserver's truncating backend does the same (k8s.io/apiserver/plugin/pkg/audit/truncate), with another annotation.
"""

from __future__ import annotations

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event, encode_line
from auditpipeline.core.mend import BODIES, annotated


def truncated(line: bytes) -> bytes | None:
    """The event without its bodies, annotated with their names; None if it has none, or cannot be read."""
    try:
        event = decode_event(line)
    except Permanent:
        return None
    cut = [field for field in BODIES if field in event]
    if not cut:
        return None
    return encode_line(annotated({field: value for field, value in event.items() if field not in cut}, cut))
