"""`metadata.managedFields` leaves an object, and every other value of it keeps its bytes.

Only the objects on the way to it are taken apart, one layer each; numbers keep their spelling, unknown fields stay.
"""

from __future__ import annotations

import msgspec

from auditpipeline.core.errors import Permanent

Raw = dict[str, msgspec.Raw]
"""A JSON object of which only the keys are decoded."""

_OBJECTS = msgspec.json.Decoder(Raw)
_ARRAYS = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def without_managed_fields(body: msgspec.Raw) -> msgspec.Raw:
    """The object without `metadata.managedFields`, its own and its items' (a list's `items`, a table's `rows`).

    As it came where it has none; every other value keeps its bytes. Permanent where it cannot be read. Source:
    copyWithoutManagedFields (k8s.io/apiserver/pkg/audit/request.go).
    """
    data = bytes(body)
    # A key may be spelt with escapes.
    if b"managedFields" not in data and b"\\u" not in data:
        return body
    try:
        return _cleaned(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Permanent(f"the event's object cannot be read: {str(error)[:200]}") from None


def _cleaned(body: msgspec.Raw) -> msgspec.Raw:
    found = _fields(body)
    clean = _without_own(found)
    for field, inner in (("items", False), ("rows", True)):
        if field in found and bytes(found[field])[:1] == b"[":
            items = _ARRAYS.decode(found[field])
            kept = [_cleaned_row(item) if inner else _cleaned_item(item) for item in items]
            if any(new is not old for new, old in zip(kept, items, strict=True)):
                clean = {**clean, field: msgspec.Raw(_ENCODER.encode(kept))}
    return body if clean is found else msgspec.Raw(_ENCODER.encode(clean))


def _cleaned_item(item: msgspec.Raw) -> msgspec.Raw:
    found = _fields(item)
    clean = _without_own(found)
    return item if clean is found else msgspec.Raw(_ENCODER.encode(clean))


def _cleaned_row(row: msgspec.Raw) -> msgspec.Raw:
    found = _fields(row)
    old = found.get("object")
    new = _cleaned_item(old) if old is not None else None
    return row if new is None or new is old else msgspec.Raw(_ENCODER.encode({**found, "object": new}))


def _without_own(found: Raw) -> Raw:
    """The object's fields with a metadata that has no managedFields; the same dict where it had none."""
    metadata = _fields(found["metadata"]) if "metadata" in found else {}
    if "managedFields" not in metadata:
        return found
    del metadata["managedFields"]
    return {**found, "metadata": msgspec.Raw(_ENCODER.encode(metadata))}


def _fields(value: msgspec.Raw) -> Raw:
    """The fields of an object; none where it is something else."""
    return _OBJECTS.decode(value) if bytes(value)[:1] == b"{" else {}
