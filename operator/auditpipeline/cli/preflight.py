"""`auditpipeline preflight`: what may be wrong on a control-plane node, and what mends it."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from auditpipeline.cli.serve import DATA_PLANE_UID
from auditpipeline.control import bootstrap as plan
from auditpipeline.control import kubeconfig as kubeconfigs
from auditpipeline.control import preflight as checks
from auditpipeline.control import preflight_node as node
from auditpipeline.control.kubeconfig import Target
from auditpipeline.control.loops import is_local
from auditpipeline.control.names import APP, DATA_FOLDER, GATEWAY
from auditpipeline.control.preflight import Check, Process
from auditpipeline.core.config import MAX_BODY
from auditpipeline.core.errors import Invalid
from auditpipeline.core.quantity import parse_bytes

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MARKS = {"ok": "ok     ", "failed": "FAILED ", "skipped": "skipped"}
MAKE = "run `auditpipeline bootstrap files` on this node, as root"


@click.command()
@click.option(
    "--dir", "directory", default=plan.DIRECTORY, show_default=True, type=FOLDER, help="Where `bootstrap files` wrote."
)
@click.option("--spool", default=DATA_FOLDER, show_default=True, type=FOLDER, help="The gateway's spool on this node.")
@click.option("--spool-size", default="4Gi", show_default=True, metavar="SIZE", help="Room that the spool may take.")
@click.option(
    "--manifest",
    multiple=True,
    type=FILE,
    help="Static Pod of kube-apiserver, or config.yaml of k3s or RKE2; absent: the processes of this node. Repeatable.",
)
@click.option("--kubeconfig", type=FILE, help="A kubeconfig of the cluster: compares the clocks.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def preflight(
    directory: Path, spool: Path, spool_size: str, manifest: tuple[Path, ...], kubeconfig: Path | None, output: str
) -> int:
    """Check a control-plane node: files, certificates, the gateway, disk, clock, and kube-apiserver's flags.

    Run it on the node, as root. Exit code 1 where a check failed; each one that did says what to mend. An empty list
    of events is posted to the gateway, and nothing is changed.
    """
    wanted = parse_bytes(spool_size, "--spool-size")
    now = datetime.now(UTC)
    processes = [node.configured(path.read_bytes(), str(path)) for path in manifest] or list(node.apiservers())
    found = [
        *_of_files(directory, processes, now),
        *of_spool(directory, spool, wanted),
        *_of_flags(directory, processes),
        *_of_clock(kubeconfig, now),
    ]
    failed = sum(check.state == "failed" for check in found)
    if output == "json":
        click.echo(json.dumps({"ok": not failed, "checks": [check._asdict() for check in found]}, indent=2))
    else:
        click.echo(_text(found, failed))
    return 1 if failed else 0


def _of_files(directory: Path, processes: Sequence[Process], now: datetime) -> Iterator[Check]:
    """What `bootstrap files` wrote, and the gateway by it."""
    policy = directory / "policy.yaml"
    if (text := _read(policy)) is None:
        yield _absent(policy)
    else:
        yield checks.policy(text, str(policy))
    yield from _of_keys(directory, processes)
    webhook = directory / "webhook.kubeconfig"
    try:
        target = kubeconfigs.load(webhook)
    except Invalid as error:
        yield Check("kubeconfig", "failed", str(error), MAKE)
        return
    except OSError as error:
        yield _unread("kubeconfig", error)
        return
    yield Check("kubeconfig", "ok", f"{webhook}: {target.server}")
    yield from _of_client(directory, target, now)
    yield from _of_gateway(directory, target, now)


def _of_keys(directory: Path, processes: Sequence[Process]) -> Iterator[Check]:
    """Root's, kube-apiserver's where it is another user, and the gateway's since its init container ran."""
    users = {process.uid for process in processes if process.uid is not None}
    for name in ("webhook.kubeconfig", "ca.key", "gateway/tls.key"):
        path = directory / name
        others = {"webhook.kubeconfig": users, "gateway/tls.key": {DATA_PLANE_UID}}.get(name, set())
        # Who is not root and runs this, made the files.
        owners = [0, *sorted({os.geteuid(), *others} - {0})]
        try:
            if (stat := node.stat_of(path)) is not None:
                yield checks.key_file(str(path), stat, owners)
        except OSError as error:
            yield _unread(f"mode of {path}", error)


def _of_client(directory: Path, target: Target, now: datetime) -> Iterator[Check]:
    yield checks.certificate("of kube-apiserver", target.certificate, now)
    yield checks.pair("kube-apiserver", target.certificate, target.key)
    yield checks.certificate("of the CA", target.ca, now)
    trusted = _read(directory / "gateway" / "client-ca.crt")
    if trusted is not None:
        ca = trusted.decode(errors="replace")
        yield checks.issued("kube-apiserver's certificate", target.certificate, ca, checks.CLIENT_AUTH)


def _of_gateway(directory: Path, target: Target, now: datetime) -> Iterator[Check]:
    """What is served counts before what is on the disk, which the gateway reads again by itself."""
    answers = node.gateway(target)
    on_disk = _read(directory / "gateway" / "tls.crt")
    pem = answers.certificate or (on_disk or b"").decode(errors="replace")
    if pem:
        yield checks.certificate("of the gateway", pem, now)
        yield checks.issued("the gateway's certificate", pem, target.ca, checks.SERVER_AUTH)
        yield checks.name_of(pem, target.tls_name, target.server)
    yield from answers.checks


def of_spool(directory: Path, spool: Path, wanted: int) -> Iterator[Check]:
    """Of the gateway on this node; one behind a Service has its spool on a volume of its own."""
    host = _gateway_host(directory)
    if not is_local(host):
        message = f"the gateway is at {host}: its spool is not on this node"
        yield Check(f"room for {spool}", "skipped", message, f"kubectl get pvc -A -l {APP}={GATEWAY}")
        return
    try:
        yield from checks.folder(str(spool), node.stat_of(spool), node.free_bytes(spool), wanted, DATA_PLANE_UID)
    except OSError as error:
        yield _unread(f"room for {spool}", error)


def _gateway_host(directory: Path) -> str:
    """Whom kube-apiserver dials; where that cannot be read, which another check tells, the node itself."""
    try:
        return kubeconfigs.load(directory / "webhook.kubeconfig").host
    except (OSError, Invalid):
        return "localhost"


def _of_flags(directory: Path, processes: Sequence[Process]) -> Iterator[Check]:
    webhook = directory / "webhook.kubeconfig"
    paths = {"audit-policy-file": str(directory / "policy.yaml"), "audit-webhook-config-file": str(webhook)}
    changed = {path: node.changed_at(Path(path)) for path in paths.values() if Path(path).exists()}
    stat = node.stat_of(webhook)
    if not processes:
        fix = "give --manifest: the static Pod's manifest, or config.yaml of k3s, where kube-apiserver is no process"
        yield Check("flags", "skipped", "no process kube-apiserver can be seen from here", fix)
    for process in processes:
        yield from checks.flags(process, paths, changed, MAX_BODY)
        if process.uid is not None and stat is not None:
            yield checks.readable(process, str(webhook), stat)


def _of_clock(kubeconfig: Path | None, now: datetime) -> Iterator[Check]:
    if kubeconfig is None:
        yield Check("clock", "skipped", "not compared with the API server's", "give --kubeconfig")
        return
    try:
        target = kubeconfigs.load(kubeconfig)
        yield checks.clock(now, node.server_time(target), target.server)
    except (OSError, http.client.HTTPException, Invalid) as error:
        yield Check("clock", "failed", f"{kubeconfig}: {error}", "does kubectl work with this kubeconfig?")


def _read(path: Path) -> bytes | None:
    """The content; None where it cannot be read, which another check tells."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _absent(path: Path) -> Check:
    return Check("policy", "failed", f"{path} is not there or cannot be read", MAKE)


def _unread(name: str, error: OSError) -> Check:
    return Check(name, "failed", f"{error.filename}: {error.strerror}", MAKE)


def _text(found: Sequence[Check], failed: int) -> str:
    lines = []
    for check in found:
        lines.append(f"{MARKS[check.state]} {check.name}: {check.message}")
        if check.fix:
            lines.append(f"        {'mend' if check.state == 'failed' else 'to check'}: {check.fix}")
    lines.append(f"{failed} of {len(found)} checks failed" if failed else "nothing is wrong")
    return "\n".join(lines)
