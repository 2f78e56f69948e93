"""`auditpipeline operator`: the controller."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from pathlib import Path

import click

from auditpipeline.cli.lean import give_memory_back, leave_out_synchronous_client
from auditpipeline.core.errors import Invalid

NAMESPACE = "auditpipeline-system"


def _spool_bytes(_: click.Context, option: click.Parameter, size: str | None) -> int | None:
    """What the spool may take of a volume of that size."""
    from auditpipeline.control.desired import spool_share

    return None if size is None else spool_share(size, option.opts[0])


def _exemptions(_: click.Context, option: click.Parameter, found: tuple[str, ...]) -> tuple[str, ...]:
    """The networks as they were written, each of which can be read."""
    from auditpipeline.core.egress import parse

    for text in found:
        parse(text, option.opts[0])
    return found


def _cidrs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Networks in their usual form."""
    try:
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    except ValueError as error:
        raise Invalid(option.opts[0], f"{error}: give a network such as 10.0.0.0/16") from None


@click.command(context_settings={"auto_envvar_prefix": "AUDITPIPELINE"})
@click.option("--namespace", envvar="POD_NAMESPACE", default=NAMESPACE, show_default=True, help="Its own namespace.")
@click.option(
    "--receivers-namespace",
    metavar="NAMESPACE",
    help="Where the receivers of pipelines without targetNamespace live; absent: in its own.",
)
@click.option(
    "--legacy-receivers/--no-legacy-receivers",
    default=False,
    show_default=True,
    help="Look after receivers that an earlier release made in its own namespace.",
)
@click.option(
    "--watch-namespace", "watch_namespaces", multiple=True, help="Another targetNamespace to serve; repeatable."
)
@click.option("--image", default="auditpipeline:latest", show_default=True, help="Image of the webhook Pods.")
@click.option(
    "--image-pull-policy",
    default="IfNotPresent",
    show_default=True,
    type=click.Choice(["Always", "IfNotPresent", "Never"]),
    help="When kubelet pulls that image.",
)
@click.option(
    "--image-pull-secret",
    "image_pull_secrets",
    multiple=True,
    help="Secret of each target namespace for pulling it; repeatable.",
)
@click.option(
    "--service-port", default=443, show_default=True, type=click.IntRange(1, 65535), help="Port of the Services."
)
@click.option("--gateway/--no-gateway", default=True, show_default=True, help="Render the gateway's configuration.")
@click.option(
    "--gateway-kind",
    default="DaemonSet",
    show_default=True,
    type=click.Choice(["DaemonSet", "StatefulSet"]),
    help="What makes its Pods: on the control-plane nodes, or behind a Service.",
)
@click.option(
    "--gateway-storage-size",
    metavar="SIZE",
    callback=_spool_bytes,
    help="Size of the volume of a gateway's spool, which takes 80 % of it; absent: the spool takes 4Gi.",
)
@click.option(
    "--egress-allow",
    metavar="CIDR[:PORT]",
    multiple=True,
    callback=_exemptions,
    help="Let outputs connect there, although it is loopback, link-local or the machine's own; repeatable.",
)
@click.option(
    "--node-cidr",
    "node_cidrs",
    multiple=True,
    callback=_cidrs,
    help="Addresses of nodes: NetworkPolicies of receivers let in no others; repeatable.",
)
@click.option(
    "--scraper-cidr",
    "scraper_cidrs",
    multiple=True,
    callback=_cidrs,
    help="Addresses that read /metrics of receivers, besides the nodes'; repeatable.",
)
@click.option(
    "--restrict-egress/--no-restrict-egress",
    default=False,
    show_default=True,
    help="Whether NetworkPolicies of receivers bound what these reach.",
)
@click.option(
    "--egress-port",
    "egress_ports",
    multiple=True,
    type=click.IntRange(1, 65535),
    help="A port that receivers may reach besides those of their outputs; repeatable.",
)
@click.option("--kubeconfig", type=click.Path(path_type=Path, exists=True), help="Absent: the Pod's ServiceAccount.")
@click.option(
    "--listen", default="0.0.0.0:8080", show_default=True, metavar="HOST:PORT", help="/healthz and /metrics, by https."
)
@click.option(
    "--metrics-token-file",
    type=click.Path(path_type=Path),
    help="File with the bearer token that reads /metrics, its own and the data plane's; absent: everybody may.",
)
@click.option(
    "--redaction-opt-out",
    default="refuse",
    show_default=True,
    type=click.Choice(["allow", "refuse"]),
    help="What becomes of pipelines and sinks that keep secrets in events; allow only if admission decides who may.",
)
@click.option("--resync", default=60.0, show_default=True, type=click.FloatRange(1), help="Seconds between resyncs.")
@click.option(
    "--status-interval", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Seconds between readings."
)
@click.option(
    "--canary-interval",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.5),
    help="Seconds between canaries, and between readings of kube-apiserver's metrics.",
)
@click.option(
    "--leader-elect/--no-leader-elect", default=True, show_default=True, help="Elect one of several replicas."
)
@click.option(
    "--identity",
    metavar="NAME",
    help="Its name in the Lease, which no other replica may have; absent: another one with each start.",
)
def operator(
    kubeconfig: Path | None, gateway_storage_size: int | None, identity: str | None, **options: object
) -> None:
    """Run the controller: it turns AuditPipelines into running webhooks and reports back."""
    give_memory_back()
    try:
        leave_out_synchronous_client()
        import kopf  # noqa: F401
    except ImportError:
        raise Invalid("", "the controller needs kopf and kubernetes: pip install 'auditpipeline[operator]'") from None
    import uvloop

    from auditpipeline.cli.logs import configure
    from auditpipeline.cli.serve import stop_on_signals
    from auditpipeline.control.operator import run
    from auditpipeline.control.settings import Settings

    if gateway_storage_size is not None:
        options["gateway_spool_bytes"] = gateway_storage_size
    configure()
    identity = identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
    settings = Settings(**options, identity=identity)  # type: ignore[arg-type]

    async def composed() -> None:
        await run(settings, stop_on_signals(), kubeconfig)

    uvloop.run(composed())
