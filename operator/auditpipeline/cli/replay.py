"""`auditpipeline replay`: recorded events, sent again as kube-apiserver would."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditpipeline.cli.policy_io import FILE, human, lines_of, shown

if TYPE_CHECKING:
    from auditpipeline.cli.replay_send import Sender
    from auditpipeline.core.eventlog import Broken

_TOLD = 5


@click.command()
@click.argument("log", type=FILE, metavar="AUDIT.log")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Where to send: what kube-apiserver's --audit-webhook-config-file would name.",
)
@click.option("--rate", type=click.FloatRange(0.1), metavar="N", help="At most N events a second.")
@click.option(
    "--batch", "size", type=click.IntRange(1, 10000), default=400, show_default=True, help="Events a request."
)
@click.option(
    "--initial-backoff",
    type=click.FloatRange(0.01, 60),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Before the first of the four tries that follow a failed one.",
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def replay(log: Path, kubeconfig: Path, rate: float | None, size: int, initial_backoff: float, output: str) -> int:
    """Send the events of AUDIT.log to an audit webhook, and tell what was acknowledged.

    A line holds one Event or one EventList, and may be one that a container runtime wrote; gzip, xz and zstd are
    unpacked, - is standard input. Requests, retries and their times are kube-apiserver's. Exit code 1 if an event was
    not acknowledged, or a line is not one.

    \b
    Examples:
      auditpipeline replay /var/log/kubernetes/audit.log --kubeconfig webhook.kubeconfig
      zcat audit-*.log.gz | auditpipeline replay - --kubeconfig webhook.kubeconfig --rate 500
    """
    import uvloop

    from auditpipeline.cli.kubeconfig import load
    from auditpipeline.cli.replay_send import Sender, batches
    from auditpipeline.core.eventlog import Broken, events

    broken = list[Broken]()
    sender = Sender(
        load(kubeconfig), initial_backoff, lambda message: click.echo(f"auditpipeline: {message}", err=True)
    )
    started, complete = time.monotonic(), False
    try:
        with lines_of(log, progress=True) as lines:
            uvloop.run(sender.send(batches(events(lines, broken.append), size), rate))
        complete = True
    finally:
        _report(log, sender, broken, time.monotonic() - started, complete, output)
    return 1 if sender.refused or broken else 0


def _report(log: Path, sender: Sender, broken: list[Broken], seconds: float, complete: bool, output: str) -> None:
    """What became of the events, also of those until an interruption."""
    for each in broken[:_TOLD]:
        click.echo(f"auditpipeline: {shown(log)}:{each.line}:{each.column}: {each.message}", err=True)
    if len(broken) > _TOLD:
        click.echo(f"auditpipeline: {shown(log)}: and {len(broken) - _TOLD} more broken lines", err=True)
    refused = sum(each.batch.events for each in sender.refused)
    if output == "json":
        click.echo(json.dumps(_fields(sender, refused, len(broken), seconds, complete), indent=2))
        return
    pace = f", {sender.events / seconds:,.0f} events/s" if seconds >= 1 else ""
    again = f", {sender.repeated:,} tries again" if sender.repeated else ""
    click.echo(
        f"acknowledged: {sender.events:,} events in {sender.batches:,} requests, {human(sender.sent_bytes)}"
        f"{pace}{again}"
    )
    if refused:
        click.echo(f"refused:      {refused:,} events in {len(sender.refused):,} requests: {sender.refused[-1].reason}")
    if broken:
        click.echo(f"broken:       {len(broken):,} {'line' if len(broken) == 1 else 'lines'} not sent")
    if not complete:
        click.echo("interrupted: the rest was not sent")


def _fields(sender: Sender, refused: int, broken: int, seconds: float, complete: bool) -> dict[str, Any]:
    return {
        "acknowledged": sender.events,
        "requests": sender.batches,
        "bytes": sender.sent_bytes,
        "triesAgain": sender.repeated,
        "refused": refused,
        "refusals": [
            {"firstLine": each.batch.first, "lastLine": each.batch.last, "reason": each.reason}
            for each in sender.refused
        ],
        "brokenLines": broken,
        "seconds": round(seconds, 3),
        "complete": complete,
    }
