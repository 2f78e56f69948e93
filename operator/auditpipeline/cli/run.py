"""`auditpipeline run`: an AuditPipeline without Kubernetes.

    pipeline.yaml --render--> DATA/config.json --followed by--> the data plane     (as controller and Pod do)
    DATA/ca.key --renew--> DATA/tls/*          --followed by--> its listeners
    --audit-log --lines--> its intake

Twice a second the pipeline's file is looked at, once a minute the certificates.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from auditpipeline.core.errors import AuditPipelineError, Invalid

if TYPE_CHECKING:
    from auditpipeline.cli.run_folder import DataFolder
    from auditpipeline.cli.run_pipeline import Loaded, PipelineFile
    from auditpipeline.control.standalone import Places
    from auditpipeline.dataplane.log import Log
    from auditpipeline.dataplane.plane import Plane

LOOK_SECONDS = 0.5
RENEW_SECONDS = 60.0
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_PATH = click.Path(path_type=Path)


class Options(NamedTuple):
    """The options as they were given."""

    listen: str
    listen_ops: str
    hostnames: tuple[str, ...]
    data_dir: Path | None
    kubeconfig: Path | None
    audit_log: Path | None
    secrets_dir: Path | None
    root: str


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="PIPELINE.yaml")
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Take audit here; port 0: any."
)
@click.option(
    "--listen-ops",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Serve health, metrics and status here.",
)
@click.option(
    "--hostname",
    "hostnames",
    multiple=True,
    metavar="NAME",
    help="How kube-apiserver reaches this machine, where that is not the HOST of --listen; repeatable, the first one "
    "goes into the kubeconfig.",
)
@click.option(
    "--data-dir",
    type=_PATH,
    metavar="DIR",
    help="Certificates, spool, kubeconfig. Default: /var/lib/auditpipeline/NAME for root, else "
    "~/.local/state/auditpipeline/NAME.",
)
@click.option("--write-kubeconfig", "kubeconfig", type=_PATH, metavar="FILE", help="Another copy of the kubeconfig.")
@click.option(
    "--audit-log", type=_PATH, metavar="FILE", help="Read the file that kube-apiserver's --audit-log-path names, too."
)
@click.option("--secrets-dir", type=_PATH, metavar="DIR", help="Where the outputs' Secrets lie, as DIR/SECRET/KEY.")
@click.option("--root", default="/", show_default=True, help="Folder below which the outputs' files lie.")
def run(pipeline: Path, **given: Any) -> None:
    """Run an AuditPipeline without Kubernetes, on this machine: the same YAML, one process.

    It makes its own certificates and the kubeconfig for kube-apiserver's --audit-webhook-config-file, follows changes
    of PIPELINE.yaml, and ends with exit code 0 on SIGTERM and SIGINT; the next start goes on where this one ended.

    \b
    Examples:
      auditpipeline run pipeline.yaml --listen 127.0.0.1:9443 --write-kubeconfig /etc/kubernetes/audit.kubeconfig
      auditpipeline run pipeline.yaml --audit-log /var/log/kubernetes/audit.log
      auditpipeline run pipeline.yaml --data-dir /tmp/audit --root /tmp/audit-files
    """
    import uvloop

    from auditpipeline.cli.logs import configure, for_this_stream
    from auditpipeline.cli.run_folder import DataFolder, check_kubeconfig
    from auditpipeline.cli.run_pipeline import PipelineFile
    from auditpipeline.control.standalone import Places

    options = Options(**given)
    hosts = _hosts(options.listen, "--listen", options.hostnames)
    _hosts(options.listen_ops, "--listen-ops", ())
    if options.kubeconfig:
        check_kubeconfig(options.kubeconfig)
    file = PipelineFile(pipeline)
    loaded = file.load()
    folder = DataFolder((options.data_dir or _default_folder(loaded.pipeline.metadata.name)).absolute())
    secrets = str(options.secrets_dir.absolute()) if options.secrets_dir else ""
    places = Places(str(folder.path), str(Path(options.root).absolute()), secrets, options.listen, options.listen_ops)
    configure()
    standalone = Standalone(file, loaded, folder, places, for_this_stream())
    standalone.hosts, standalone.also, standalone.audit_log = hosts, options.kubeconfig, options.audit_log
    standalone.prepare()
    uvloop.run(standalone.run())


class Standalone:
    """One process with what it needs; `prepare`, then `run`."""

    def __init__(self, file: PipelineFile, loaded: Loaded, folder: DataFolder, places: Places, log: Log) -> None:
        self.hosts: tuple[str, ...] = ()
        self.also: Path | None = None
        self.audit_log: Path | None = None
        self._file = file
        self._loaded = loaded
        self._folder = folder
        self._places = places
        self._log = log
        self._told: tuple[str, ...] = ()
        self._server = ""

    def prepare(self) -> None:
        """Writes certificates and configuration; Invalid where something is missing."""
        self._put(self._loaded)
        self._folder.renew(self.hosts)

    async def run(self) -> None:
        """Runs until a signal, or until `expireAfter` is over. AuditPipelineError where it cannot start."""
        from auditpipeline.cli.serve import stop_on_signals
        from auditpipeline.dataplane.run import run as run_plane

        stop, stop_plane = stop_on_signals(), asyncio.Event()
        ready: asyncio.Future[Plane] = asyncio.get_running_loop().create_future()
        plane = asyncio.create_task(
            run_plane(self._folder.config, stop=stop_plane, on_ready=ready.set_result, log=self._log)
        )
        keeping = asyncio.create_task(self._keep(stop))
        told = asyncio.create_task(stop.wait())
        first: list[asyncio.Future[Any]] = [plane, told, ready]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                source = asyncio.create_task(self._attend(ready.result(), stop))
                await asyncio.wait([plane, told, keeping, source], return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                await source
        finally:
            stop.set()
            stop_plane.set()
            await plane
            await keeping
            told.cancel()

    async def _attend(self, plane: Plane, stop: asyncio.Event) -> None:
        """Says that the process is ready, and reads the audit log, if there is one, until told to stop."""
        from auditpipeline.dataplane.sources.log import LogSource

        self._server = f"https://{_bracketed(self.hosts[0])}:{plane.audit_port}/audit"
        self._folder.write_kubeconfig(self._server, self.also)
        source = None
        if self.audit_log:
            source = LogSource(self.audit_log.absolute(), self._folder.position, plane.intake, self._log)
            await source.start()
        self._say_ready(f"https://{_bracketed(self.hosts[0])}:{plane.ops_port}")
        if source:
            await source.run(stop)
        await stop.wait()

    async def _keep(self, stop: asyncio.Event) -> None:
        """Follows the pipeline's file, renews certificates, and ends an expired pipeline."""
        loop = asyncio.get_running_loop()
        started = renewed = loop.time()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await stop.wait()
            self._look()
            if loop.time() - renewed >= RENEW_SECONDS:
                renewed = loop.time()
                self._renew()
            seconds = self._loaded.seconds
            if seconds is not None and loop.time() - started >= seconds:
                self._log.warning("spec.expireAfter is over: stopping", after=self._loaded.pipeline.spec.expire_after)
                stop.set()

    def _look(self) -> None:
        if not self._file.changed():
            return
        try:
            self._put(self._file.load())
        except (AuditPipelineError, OSError) as error:
            self._log.error("the changed pipeline is refused, the old one stays in force", error=str(error))

    def _put(self, loaded: Loaded) -> None:
        """Renders a pipeline for the data plane, which follows the file."""
        from auditpipeline.cli.run_folder import write
        from auditpipeline.cli.run_pipeline import prepare

        if loaded.pipeline.metadata.name != self._loaded.pipeline.metadata.name:
            raise Invalid("metadata.name", "is another one now: start another process for it")
        prepared = prepare(loaded, self._places)
        write(self._folder.config, prepared.body, 0o600)
        self._loaded = loaded
        if loaded.ignored and loaded.ignored != self._told:
            self._log.info("fields that mean nothing without Kubernetes are ignored", fields=", ".join(loaded.ignored))
        self._told = loaded.ignored

    def _renew(self) -> None:
        try:
            fresh = self._folder.renew(self.hosts)
            if "client.crt" in fresh and self._server:
                self._folder.write_kubeconfig(self._server, self.also)
                self._log.warning("the kubeconfig was renewed: restart kube-apiserver, which reads it at its start")
        except OSError as error:
            self._log.error("certificates cannot be renewed; trying again", error=str(error))

    def _say_ready(self, ops: str) -> None:
        kubeconfig = self.also or self._folder.kubeconfig
        if not sys.stderr.isatty():
            self._log.info(
                "ready", audit=self._server, ops=ops, kubeconfig=str(kubeconfig), data=str(self._folder.path)
            )
            return
        name = self._loaded.pipeline.metadata.name
        click.echo(
            f"\nauditpipeline {name} takes events at {self._server}\n"
            f"  data        {self._folder.path}\n"
            f"  metrics     curl -k {ops}/metrics\n"
            f"  try it      auditpipeline replay AUDIT.log --kubeconfig {kubeconfig}\n"
            "  kube-apiserver needs these flags, and a restart:\n"
            f"              --audit-policy-file=POLICY.yaml --audit-webhook-config-file={kubeconfig}\n",
            err=True,
        )


def _hosts(listen: str, option: str, hostnames: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the certificate: what kube-apiserver dials first, then what this machine itself may dial."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Invalid(option, f"{listen!r} is no HOST:PORT, such as 127.0.0.1:9443")
    own = () if host in _EVERYWHERE else (host,)
    return tuple(dict.fromkeys((*hostnames, *own, "127.0.0.1", "localhost")))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _default_folder(name: str) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/auditpipeline") / name
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "auditpipeline" / name
