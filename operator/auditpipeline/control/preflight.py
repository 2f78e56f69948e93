"""What is checked on a control-plane node: from what was found there to a list of checks. Pure.

A check is `ok`, `failed` (with what mends it) or `skipped` (with what it would need). Nothing that is secret is in a
message. What is found is gathered by `preflight_node.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from auditpipeline.control import certificates
from auditpipeline.control.bootstrap import APISERVER_FLAGS
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policyfile import load
from auditpipeline.core.quantity import parse_seconds

State = Literal["ok", "failed", "skipped"]
ENDS_SOON = timedelta(days=30)
CLOCKS_APART = timedelta(seconds=60)
RENEW = "run `auditpipeline bootstrap files` again, then restart kube-apiserver"
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
_RETRIES = 1 + 1.5 + 1.5**2 + 1.5**3
"""Initial backoffs until kube-apiserver gives a batch up: four waits, each half as long again as the one before
(DefaultRetryBackoffWithInitialDelay in k8s.io/apiserver/pkg/util/webhook/webhook.go)."""


class Check(NamedTuple):
    """One check; `fix` says what to mend, and is empty where nothing is."""

    name: str
    state: State
    message: str
    fix: str = ""


class Stat(NamedTuple):
    """Who may do what with a file or folder."""

    mode: int
    uid: int


class Process(NamedTuple):
    """A kube-apiserver: its flags and where they stand; its user and its start are None where only a file is known."""

    source: str
    flags: Mapping[str, str]
    started: datetime | None = None
    uid: int | None = None


def policy(text: bytes, file: str) -> Check:
    """Whether kube-apiserver can load the static policy as it is meant."""
    try:
        found = load(text, file)
    except Invalid as error:
        return Check("policy", "failed", str(error), f"mend it; `auditpipeline policy lint {file}` says more")
    rules = len(found.rules.rules)
    return Check("policy", "ok", f"{file}: {rules} rule{'' if rules == 1 else 's'}")


def key_file(path: str, stat: Stat, owners: Sequence[int]) -> Check:
    """Whether nobody but one of `owners` may read a file with a private key."""
    name = f"mode of {path}"
    if stat.mode & 0o077:
        return Check(name, "failed", f"mode {stat.mode & 0o777:04o}: others may read the key", f"chmod 0600 {path}")
    if stat.uid not in owners:
        wanted = " or ".join(map(str, owners))
        return Check(name, "failed", f"owned by user {stat.uid} instead of {wanted}", f"chown {owners[0]} {path}")
    return Check(name, "ok", f"mode {stat.mode & 0o777:04o}, user {stat.uid}")


def certificate(name: str, pem: str, now: datetime) -> Check:
    """Whether a certificate is in force, and not about to end."""
    title = f"certificate {name}"
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return Check(title, "failed", "is no PEM certificate", RENEW)
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    if begin > now:
        return Check(
            title, "failed", f"begins {_time(begin)}, and it is {_time(now)} here", "set this node's clock (NTP)"
        )
    if end <= now:
        return Check(title, "failed", f"ended {_time(end)}", RENEW)
    if end - now < ENDS_SOON:
        return Check(title, "failed", f"ends {_time(end)}, in {(end - now).days} days", RENEW)
    return Check(title, "ok", f"until {_time(end)}")


def issued(name: str, pem: str, ca: str, purpose: x509.ObjectIdentifier) -> Check:
    """Whether a certificate is good for its purpose by one of the CAs in `ca`."""
    title = f"issuer of {name}"
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        authorities = x509.load_pem_x509_certificates(ca.encode())
        purposes = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return Check(title, "failed", "certificate or CA cannot be read", RENEW)
    if not any(_issued_by(found, authority) for authority in authorities):
        return Check(title, "failed", "the CA that the other side trusts did not issue it", RENEW)
    if purpose not in purposes:
        return Check(title, "failed", "it is made for another purpose", RENEW)
    return Check(title, "ok", authorities[0].subject.rfc4514_string())


def pair(name: str, pem: str, key: str) -> Check:
    """Whether a private key belongs to its certificate."""
    try:
        certificates.load(certificates.Pair(pem, key))
    except Invalid as error:
        return Check(f"key of {name}", "failed", error.message, RENEW)
    return Check(f"key of {name}", "ok", "belongs to its certificate")


def name_of(pem: str, host: str, server: str) -> Check:
    """Whether the gateway's certificate is good for the host that kube-apiserver dials."""
    try:
        names = certificates.names(x509.load_pem_x509_certificate(pem.encode()))
    except ValueError:
        names = []
    if _plain(host) in map(_plain, names):
        return Check("name in the certificate", "ok", f"{host} is in it")
    found = ", ".join(names) or "no name"
    fix = f"run `auditpipeline bootstrap files --address HOST:PORT` with the address of {server}"
    return Check("name in the certificate", "failed", f"{server} is dialled, and the certificate is for {found}", fix)


def clock(now: datetime, theirs: datetime, server: str) -> Check:
    """Whether this node's clock and the API server's agree."""
    apart = abs(now - theirs)
    if apart > CLOCKS_APART:
        message = f"{apart.total_seconds():.0f} s apart from {server}"
        return Check("clock", "failed", message, "set the clocks of both (NTP)")
    return Check("clock", "ok", f"{server} says the same")


def folder(path: str, stat: Stat | None, free: int, wanted: int, uid: int) -> Iterator[Check]:
    """Whether the spool has room, and the gateway's user may write there; no folder yet is fine, kubelet makes it."""
    name = f"room for {path}"
    if free < wanted:
        message = f"{_gib(free)} free, the spool may take {_gib(wanted)}"
        fix = f"free space, or mount a larger disk at {path} (or lower --spool-size, if the gateway's spool is smaller)"
        yield Check(name, "failed", message, fix)
    else:
        yield Check(name, "ok", f"{_gib(free)} free")
    if stat is None:
        yield Check(f"owner of {path}", "ok", "not there yet: kubelet makes it")
    elif stat.uid != uid or stat.mode & 0o700 != 0o700:
        message = f"mode {stat.mode & 0o777:04o}, user {stat.uid}: user {uid} of the gateway cannot write there"
        fix = f"chown -R {uid} {path} && chmod u+rwx {path}; the gateway's init container does it at each start"
        yield Check(f"owner of {path}", "failed", message, fix)
    else:
        yield Check(f"owner of {path}", "ok", f"user {uid} may write there")


def flags(
    process: Process, paths: Mapping[str, str], changed: Mapping[str, datetime], max_body: int
) -> Iterator[Check]:
    """The audit flags of a kube-apiserver. `paths` are the files that its flags should name, and `changed` says when
    they were written last."""
    found = process.flags
    title = f"flags of {process.source}"
    bad = list(_bad_flags(found, paths, max_body))
    for message, fix in bad:
        yield Check(title, "failed", message, fix)
    if not bad:
        yield Check(title, "ok", "policy, webhook, batches and truncation are as they should be")
    if process.started is not None and not bad:
        yield _restart(process.source, process.started, changed)


def _bad_flags(found: Mapping[str, str], paths: Mapping[str, str], max_body: int) -> Iterator[tuple[str, str]]:
    for name, path in paths.items():
        if name not in found:
            yield (
                f"--{name} is not there",
                f"set --{name}={path}; `auditpipeline bootstrap` has it for each distribution",
            )
        elif found[name] != path:
            yield f"--{name} is {found[name]}, checked is {path}", "set the flag, or give its folder with --dir"
    # kube-apiserver's default for the webhook's mode is batch.
    if (mode := found.get("audit-webhook-mode", "batch")) != "batch":
        yield (
            f"--audit-webhook-mode is {mode}: requests wait for the gateway",
            "set --audit-webhook-mode=batch",
        )
    wait, best = found.get("audit-webhook-initial-backoff", "10s"), APISERVER_FLAGS["audit-webhook-initial-backoff"]
    if (seconds := _seconds(wait)) is not None and seconds < parse_seconds(best, ""):
        away = f"{_RETRIES * seconds:.0f} s"
        yield (
            f"--audit-webhook-initial-backoff is {wait}: a batch is lost where the gateway is away for {away}",
            f"set --audit-webhook-initial-backoff={best}, or leave it out",
        )
    if found.get("audit-webhook-truncate-enabled", "false").lower() not in ("true", "t", "1"):
        yield (
            f"--audit-webhook-truncate-enabled is not set: a batch of over {max_body // 2**20} MiB is refused and lost",
            "set it to true (kOps has no field for it: see docs/bootstrap.md)",
        )
    else:
        size = found.get("audit-webhook-truncate-max-batch-size", "10485760")
        if not size.isdigit() or int(size) > max_body:
            best = APISERVER_FLAGS["audit-webhook-truncate-max-batch-size"]
            yield (
                f"--audit-webhook-truncate-max-batch-size is {size}, the gateway takes {max_body}",
                f"set --audit-webhook-truncate-max-batch-size={best}",
            )


def _seconds(duration: str) -> float | None:
    """A flag's duration in seconds; None where it is none of the usual units."""
    try:
        return parse_seconds(duration, "")
    except Invalid:
        return None


def readable(process: Process, path: str, stat: Stat) -> Check:
    """Whether a kube-apiserver that is not root may read its kubeconfig, which it does at its next start."""
    title = f"{path} for {process.source}"
    if process.uid and process.uid != stat.uid:
        message = f"it runs as user {process.uid}, and the file is user {stat.uid}'s with mode {stat.mode & 0o777:04o}"
        return Check(title, "failed", message, f"chown {process.uid} {path}, after each renewal")
    return Check(title, "ok", "its user may read it")


def _restart(source: str, started: datetime, changed: Mapping[str, datetime]) -> Check:
    newer = sorted(path for path, at in changed.items() if at > started)
    if newer:
        message = f"{', '.join(newer)} changed after its start, and it reads them at its start alone"
        return Check(f"start of {source}", "failed", message, "restart kube-apiserver")
    return Check(f"start of {source}", "ok", f"{_time(started)}, after its files were written")


def _issued_by(found: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        found.verify_directly_issued_by(authority)
    except Exception:
        # The library raises several kinds; each of them means no.
        return False
    return True


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
