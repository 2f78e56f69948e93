"""What preflight finds on a node: files, processes, the gateway's answer, the API server's clock.

Reads and connects, changes nothing, and needs no Kubernetes client: of the API server it asks the time alone, which
every answer has. An empty EventList is posted to the gateway, as kube-apiserver would post events: nothing is stored.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from auditpipeline.control import preflight_advice as advice
from auditpipeline.control.kubeconfig import Target
from auditpipeline.control.preflight import Check, Process, Stat
from auditpipeline.core.errors import Invalid

SECONDS = 5.0
EMPTY = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[]}'


class Answers(NamedTuple):
    """The checks of one conversation with the gateway, and its certificate where it showed one."""

    checks: list[Check]
    certificate: str = ""


def gateway(target: Target) -> Answers:
    """Connects as kube-apiserver does: TCP, TLS with the client certificate, an empty EventList."""
    try:
        with socket.create_connection((target.host, target.port), SECONDS) as raw:
            reached = Check("gateway reachable", "ok", f"{target.host}:{target.port} takes connections")
            answers = [reached, *_conversation(raw, target)]
    except OSError as error:
        message = f"{target.host}:{target.port}: {error.strerror or error}"
        return Answers([Check("gateway reachable", "failed", message, advice.not_running(target.host))])
    return Answers(answers, _shown_certificate(target))


def _conversation(raw: socket.socket, target: Target) -> Iterator[Check]:
    try:
        context = _context(target)
    except (ssl.SSLError, ValueError):
        fix = "run `auditpipeline bootstrap files` again, then restart kube-apiserver"
        yield Check("TLS", "failed", "the kubeconfig's CA, certificate or key cannot be used", fix)
        return
    try:
        with context.wrap_socket(raw, server_hostname=target.tls_name) as connection:
            yield Check("TLS", "ok", f"{connection.version()}, the gateway's certificate is trusted")
            yield _posted(connection, target)
    except ssl.SSLCertVerificationError as error:
        yield Check("TLS", "failed", f"the gateway's certificate: {error.verify_message}", advice.trust(target.host))
    except ssl.SSLError as error:
        yield Check("TLS", "failed", f"no handshake: {error.reason}", "does another program listen there?")
    except OSError as error:
        yield Check("TLS", "failed", f"no handshake: {error.strerror or error}", advice.not_running(target.host))


def _posted(connection: ssl.SSLSocket, target: Target) -> Check:
    """With TLS 1.3 a client certificate is refused at the first read after the handshake."""
    client = http.client.HTTPConnection(target.host, target.port, timeout=SECONDS)
    client.sock = connection
    try:
        client.request("POST", f"{target.path}?timeout=5s", EMPTY, {"Content-Type": "application/json"})
        answer = client.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
    except (ssl.SSLError, ConnectionError) as error:
        # What the gateway says may be overtaken by its closing the connection.
        reason = error.reason if isinstance(error, ssl.SSLError) else "the gateway closed the connection"
        fix = f"the gateway trusts another CA than the one of this certificate: {advice.trust(target.host)}"
        return Check("client certificate", "failed", f"refused: {reason}", fix)
    except (OSError, http.client.HTTPException) as error:
        return Check("empty EventList", "failed", f"no answer: {error}", "the gateway's log says more")
    if answer.status != 200:
        fix = (
            "the gateway's log says more; after 503 look at its spool, after 404 at the path in the kubeconfig's server"
        )
        return Check("empty EventList", "failed", f"answered {answer.status}: {said}", fix)
    return Check("empty EventList", "ok", "sent with the client certificate, answered 200")


def _shown_certificate(target: Target) -> str:
    """What the gateway serves with, trusted or not; empty where it shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is sent over this connection, and what it shows is checked by the caller.
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((target.host, target.port), SECONDS) as raw,
            context.wrap_socket(raw) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
    except OSError:
        return ""
    return ssl.DER_cert_to_PEM_cert(shown) if shown else ""


def server_time(target: Target) -> datetime:
    """What the API server holds for now; OSError or HTTPException where it gives no answer with a date."""
    context = ssl.create_default_context(cadata=target.ca or None)
    # The name is the kubeconfig's, whatever address is dialled.
    with socket.create_connection((target.host, target.port), SECONDS) as raw:
        client = http.client.HTTPConnection(target.host, target.port, timeout=SECONDS)
        client.sock = context.wrap_socket(raw, server_hostname=target.tls_name)
        try:
            # Any answer has a date, 401 and 403 too.
            client.request("GET", "/version")
            date = client.getresponse().getheader("Date") or ""
        finally:
            client.close()
    try:
        return parsedate_to_datetime(date)
    except ValueError:
        raise http.client.HTTPException("the answer has no date") from None


def _context(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=target.ca or None)
    if target.certificate or target.key:
        with _memory_file(f"{target.key}\n{target.certificate}") as path:
            # A password callback, since OpenSSL asks the terminal otherwise.
            context.load_cert_chain(path, password=lambda: "")
    return context


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """OpenSSL reads paths only; the key is on no disk, and goes with the process."""
    number = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def stat_of(path: Path) -> Stat | None:
    """Mode and owner; None where nothing is there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Stat(found.st_mode, found.st_uid)


def changed_at(path: Path) -> datetime:
    """When a file was written last."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where the folder is, or will be; what is in it already counts as free."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    found = os.statvfs(there)
    used = 0
    for file in path.glob("*"):
        # A running gateway makes and removes files there.
        with suppress(FileNotFoundError):
            used += file.stat().st_size
    return found.f_bavail * found.f_frsize + used


def apiservers(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Every process of this node that is a kube-apiserver and may be read."""
    for folder in sorted((each for each in proc.iterdir() if each.name.isdigit()), key=lambda each: int(each.name)):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name != "kube-apiserver":
                continue
            source = f"kube-apiserver (process {folder.name})"
            yield Process(source, flags_in(words[1:]), _started(proc, folder), folder.stat().st_uid)
        except OSError:
            # It ended meanwhile, or belongs to somebody else.
            continue


def _started(proc: Path, folder: Path) -> datetime:
    """proc(5): field 22 of stat, in clock ticks since the boot; the second field is a name in parentheses."""
    ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    boot = next(int(line.split()[1]) for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)


def configured(text: bytes, file: str) -> Process:
    """The flags in a static Pod of kube-apiserver, or in k3s' or RKE2's config.yaml; Invalid where it is neither."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Invalid(file, "is not valid YAML") from None
    words = _words(document) if isinstance(document, dict) else None
    if words is None:
        raise Invalid(file, "is neither a static Pod of kube-apiserver nor a config.yaml with kube-apiserver-arg")
    return Process(file, flags_in(words))


def _words(document: dict[str, Any]) -> list[str] | None:
    for key in ("kube-apiserver-arg", "kube-apiserver-arg+"):
        if key in document:
            arguments = document[key] if isinstance(document[key], list) else [document[key]]
            return [f"--{str(word).lstrip('-')}" for word in arguments]
    spec = document.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    for container in containers if isinstance(containers, list) else ():
        if isinstance(container, dict) and container.get("name") == "kube-apiserver":
            return [str(word) for field in ("command", "args") for word in container.get(field) or ()]
    return None


def flags_in(words: list[str]) -> dict[str, str]:
    """Flags as kube-apiserver reads them: `--name=value`, `--name value`, or a name alone, which is true; the last one
    counts."""
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, sign, value = word.lstrip("-").partition("=")
        if not sign:
            following = words[index + 1] if index + 1 < len(words) else ""
            value = "true" if not following or following.startswith("-") else following
        found[name.replace("_", "-")] = value
    return found
