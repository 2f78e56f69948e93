"""Where an output of an AuditPipeline delivers to, as typed values, and what can be wrong with one.

Shapes: `spec.outputs[].stdout`, `.file` and `.http` of crds/auditpipelines.yaml, which refuses the same with CEL.
Secrets are named here and never held: `secret_keys` says which ones an output needs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from auditpipeline.core.errors import Invalid
from auditpipeline.core.quantity import parse_bytes, parse_seconds

SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
OWN_SECRETS = re.compile(r"auditpipeline-.*|audit-.*-(config|tls|generation)")
# What HTTP and the output itself decide, and what would be a credential.
OWN_HEADERS = re.compile(
    r"(?i)(authorization|cookie|host|content-.*|proxy-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|"
    r"expect|accept-encoding|idempotency-key)"
)
LEAST_FILE = 2**20
"""Below this a file would rotate with every batch."""
LEAST_AGE = 60.0
MOST_TIMEOUT = 30.0
"""How long a route waits for an answer at most; Kubernetes' own webhooks have the same bound."""
MOST_BATCH_WAIT = 60.0
"""Whoever looks at the destination should see within a minute what happened."""
Format = Literal["json-lines", "json-array", "event-list"]
FileCompression = Literal["none", "gzip", "zstd"]
HttpCompression = Literal["none", "gzip"]
Fsync = Literal["batch", "rotation", "never"]

SecretName = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=SUBDOMAIN)]


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A value of the spec: immutable, camelCase outside, nothing unknown accepted."""


class SecretKey(_Value, frozen=True):
    """One key of a Secret in the pipeline's target namespace."""

    # Both become parts of paths in the Pod: the patterns are those of Kubernetes, and know no slash and no "..".
    name: SecretName
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$")]


class Secret(_Value, frozen=True):
    """A Secret in the pipeline's target namespace whose keys are given by its use."""

    name: SecretName


class Header(_Value, frozen=True):
    """One HTTP header; nothing secret."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][-A-Za-z0-9]*$")]
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=r"^[!-~]([ -~]*[!-~])?$")]


class Stdout(_Value, frozen=True):
    """JSON lines on the Pod's standard output."""


class File(_Value, frozen=True):
    """JSON lines in a file that rotates at `max_size` and at `max_age`; `keep` rotated files stay."""

    path: Annotated[str, msgspec.Meta(max_length=255)]
    max_size: str = "100Mi"
    max_age: str | None = None
    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    compression: FileCompression = "none"
    fsync: Fsync = "batch"


class Http(_Value, frozen=True):
    """HTTP POST of batches. `ca_bundle` is base64 of PEM."""

    url: Annotated[str, msgspec.Meta(max_length=2048, pattern=r"^https?://[^/\s]+")]
    format: Format = "json-lines"
    compression: HttpCompression = "none"
    timeout: str = "30s"
    batch_max_wait: str = "0s"
    headers: Annotated[tuple[Header, ...], msgspec.Meta(max_length=16)] = ()
    proxy: Annotated[str, msgspec.Meta(max_length=2048, pattern=r"^http://[^/\s]+/?$")] | None = None
    bearer_token_secret_ref: SecretKey | None = None
    basic_auth_secret_ref: Secret | None = None
    client_certificate_secret_ref: Secret | None = None
    ca_bundle: Annotated[str, msgspec.Meta(max_length=131072)] | None = None
    ca_secret_ref: SecretKey | None = None
    server_name: Annotated[str, msgspec.Meta(max_length=253, pattern=SUBDOMAIN)] | None = None


def basic_keys(secret: Secret) -> tuple[SecretKey, SecretKey]:
    """User name and password in a Secret of type kubernetes.io/basic-auth."""
    return SecretKey(secret.name, "username"), SecretKey(secret.name, "password")


def certificate_keys(secret: Secret) -> tuple[SecretKey, SecretKey]:
    """Certificate and key in a Secret of type kubernetes.io/tls."""
    return SecretKey(secret.name, "tls.crt"), SecretKey(secret.name, "tls.key")


def secret_keys(http: Http) -> tuple[SecretKey, ...]:
    """Every Secret key that the output needs."""
    basic, certificate = http.basic_auth_secret_ref, http.client_certificate_secret_ref
    return (
        *[reference for reference in (http.bearer_token_secret_ref, http.ca_secret_ref) if reference],
        *(basic_keys(basic) if basic else ()),
        *(certificate_keys(certificate) if certificate else ()),
    )


def ca_text(http: Http) -> str | None:
    """The PEM certificates of `ca_bundle`; None where there are none, or what is there is no base64 of text."""
    try:
        return base64.b64decode(http.ca_bundle, validate=True).decode() if http.ca_bundle else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def file_problems(file: File, where: str) -> Iterator[Invalid]:
    """What is wrong with the fields of a file; Invalid is raised for a size or an age that is none."""
    parse_bytes(file.max_size, f"{where}.maxSize", LEAST_FILE)
    if file.max_age is not None and parse_seconds(file.max_age, f"{where}.maxAge") < LEAST_AGE:
        yield Invalid(f"{where}.maxAge", f"{file.max_age!r} is too short: at least 1m is needed")
    if not re.fullmatch(r"/var/log(/[A-Za-z0-9_][-A-Za-z0-9._]*){2,}", file.path):
        yield Invalid(f"{where}.path", "must be a file in a folder below /var/log, such as /var/log/audit/events.jsonl")


def http_problems(http: Http, where: str) -> Iterator[Invalid]:
    """What is wrong with the fields of an HTTP destination; Invalid is raised for a timeout that is none."""
    yield from url_problems(http.url, f"{where}.url")
    yield from _proxy_problems(http.proxy, f"{where}.proxy")
    if not 1 <= parse_seconds(http.timeout, f"{where}.timeout") <= MOST_TIMEOUT:
        yield Invalid(f"{where}.timeout", f"{http.timeout!r} is out of bounds: write 1s to {MOST_TIMEOUT:g}s")
    if parse_seconds(http.batch_max_wait, f"{where}.batchMaxWait") > MOST_BATCH_WAIT:
        message = f"{http.batch_max_wait!r} is out of bounds: write 0s to {MOST_BATCH_WAIT:g}s"
        yield Invalid(f"{where}.batchMaxWait", message)
    for index, header in enumerate(http.headers):
        if OWN_HEADERS.fullmatch(header.name):
            message = f"{header.name!r} is set by the output itself, or is a credential, which belongs into a Secret"
            yield Invalid(f"{where}.headers[{index}].name", f"{message}: leave it out")
    yield from _trust_problems(http, where)
    yield from _secret_problems(http, where)


def url_problems(url: str, path: str) -> list[Invalid]:
    """Source: k8s.io/apiserver/pkg/util/webhook/validation.go (a URL may carry a credential, so none is repeated)."""
    parts = _split_url(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return [Invalid(path, "host must be specified; desired format: https://host[/path]")]
    if parts.username is not None or parts.password is not None:
        return [Invalid(path, "user information is not permitted in the URL")]
    if parts.fragment or parts.query:
        return [Invalid(path, "fragments and query parameters are not permitted in the URL")]
    if not _is_reachable(url):
        return [Invalid(path, "the host is no name that can be looked up: write a DNS name or an IP address")]
    return []


def _is_reachable(url: str) -> bool:
    """Whether the parser of the http output takes the URL, and the resolver its host: both refuse names that urlsplit
    does not."""
    from yarl import URL

    try:
        found = URL(url)
        (found.raw_host or "").encode("idna")
        return bool(found.host and found.host_port_subcomponent)
    except ValueError:
        return False


def _proxy_problems(proxy: str | None, where: str) -> list[Invalid]:
    if proxy is None or not url_problems(proxy, where):
        return []
    return [Invalid(where, "must be http://host:port, without user information, path, query and fragment")]


def _trust_problems(http: Http, where: str) -> Iterator[Invalid]:
    """Who the server is, and who we are to it."""
    kinds = (http.bearer_token_secret_ref, http.basic_auth_secret_ref, http.client_certificate_secret_ref)
    if sum(kind is not None for kind in kinds) > 1:
        yield Invalid(where, "one way to authenticate is enough: keep the one that the server asks for")
    if http.ca_bundle is not None and http.ca_secret_ref is not None:
        yield Invalid(f"{where}.caBundle", "caSecretRef says it too: keep one of the two")
    if http.ca_bundle is not None and not _is_pem(ca_text(http)):
        yield Invalid(f"{where}.caBundle", "must be base64 of PEM certificates")
    if http.url.startswith("http://") and any((*kinds, http.ca_bundle, http.ca_secret_ref, http.server_name)):
        yield Invalid(
            f"{where}.url", "credentials, CAs and serverName need https: over http anybody on the way could read along"
        )


def _is_pem(text: str | None) -> bool:
    from cryptography import x509  # 20 MB that only who has such a field pays for

    try:
        return bool(x509.load_pem_x509_certificates((text or "").encode()))
    except ValueError:
        return False


def _secret_problems(http: Http, where: str) -> list[Invalid]:
    """The operator's own Secrets hold private keys: no output may send one away."""
    references: dict[str, SecretKey | Secret | None] = {
        "bearerTokenSecretRef": http.bearer_token_secret_ref,
        "basicAuthSecretRef": http.basic_auth_secret_ref,
        "clientCertificateSecretRef": http.client_certificate_secret_ref,
        "caSecretRef": http.ca_secret_ref,
    }
    return [
        Invalid(
            f"{where}.{field}.name", f"{reference.name!r} is a Secret of auditpipeline itself: make one of your own"
        )
        for field, reference in references.items()
        if reference and OWN_SECRETS.fullmatch(reference.name)
    ]


def _split_url(url: str) -> SplitResult | None:
    """The parts of the URL; None where there is no address or no port in it, or a space (which urlsplit would drop)."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if re.search(r"[\s\x00-\x1f\x7f]", url) else parts
