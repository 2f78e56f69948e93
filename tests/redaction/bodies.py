"""Request bodies of planted events, in the forms that kube-apiserver has sent and that the planes take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BETA = b'"metadata":{"creationTimestamp":null},"timestamp":"2026-11-24T00:52:02Z",'


def listed(items: Sequence[bytes], version: bytes = b"v1") -> bytes:
    """An EventList as kube-apiserver writes it."""
    head = b'{"kind":"EventList","apiVersion":"audit.k8s.io/%s","metadata":{},"items":[' % version
    return head + b",".join(items) + b"]}\n"


def beta(items: Sequence[bytes]) -> bytes:
    """The same of v1beta1, whose events have two fields more."""
    return listed([b"{" + BETA + item[1:] for item in items], b"v1beta1")


def spaced(items: Sequence[bytes]) -> bytes:
    """With white space around items, and the fields of the list in another order."""
    inner = b"\n  ,\t".join(b" " + item for item in items)
    return b'\n{ "items" : [\r\n' + inner + b' ] , "apiVersion" : "audit.k8s.io/v1", "kind":\n"EventList" }\n\n'


def enveloped(items: Sequence[bytes]) -> bytes:
    """With kind and apiVersion on each event."""
    return listed([b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",' + item[1:] for item in items])


def with_junk(items: Sequence[bytes]) -> bytes:
    """With items among them that are no events."""
    return listed([b"1", *items, b"[[]]", b'{"a":"b"}'])


FORMS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    "listed": listed,
    "v1beta1": beta,
    "white space": spaced,
    "enveloped": enveloped,
    "junk among them": with_junk,
}
