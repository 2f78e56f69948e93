"""`auditpipeline bootstrap`: the static side of a control-plane node, written or printed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from auditpipeline.cli.serve import DATA_PLANE_UID
from auditpipeline.control import bootstrap as plan
from auditpipeline.core.errors import Invalid


@click.group()
def bootstrap() -> None:
    """Make kube-apiserver post its audit events to the gateway."""


@bootstrap.command()
@click.option(
    "--dir", "directory", default=plan.DIRECTORY, show_default=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--address", default=plan.ADDRESS, show_default=True, metavar="HOST:PORT", help="Where the gateway listens."
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Static policy to write; absent: all that AuditPipelines may ask for, credentials at Metadata.",
)
def files(directory: Path, address: str, policy: Path | None) -> None:
    """Write policy, webhook kubeconfig and certificates into a folder of a control-plane node.

    Run it again to renew: what is there and still good stays, the policy always stays.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Invalid("--address", f"{address!r} is no HOST:PORT, such as {plan.ADDRESS}")
    text = policy.read_text() if policy else plan.STATIC_POLICY
    existing = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    fresh = plan.files(existing, address, datetime.now(UTC), text)
    for name, file in sorted(fresh.items()):
        _write(directory / name, file)
        click.echo(f"wrote {directory / name}")
    if not fresh:
        click.echo(f"{directory}: everything is there and good")
    click.echo("kube-apiserver needs these flags, and a restart:")
    for flag, value in plan.APISERVER_FLAGS.items():
        click.echo(f"  --{flag}={value.replace(plan.DIRECTORY, str(directory))}")


@bootstrap.command()
@click.option(
    "--config-version", default=plan.KUBEADM_VERSIONS[0], show_default=True, help="v1beta4, v1beta3 or v1beta2."
)
@click.option("--dir", "directory", default=plan.DIRECTORY, show_default=True, help="Where the files are on the node.")
def kubeadm(config_version: str, directory: str) -> None:
    """Print the kubeadm ClusterConfiguration with extraArgs and extraVolumes."""
    click.echo(plan.kubeadm(config_version, directory), nl=False)


def _write(path: Path, file: plan.File) -> None:
    """Write a file whole or not at all; the gateway's belong to the data plane's user where root may say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode), "wb") as stream:
        stream.write(file.content)
        os.fsync(stream.fileno())
    if path.parent.name == "gateway" and os.geteuid() == 0:
        os.chown(fresh, DATA_PLANE_UID, DATA_PLANE_UID)
    fresh.rename(path)
