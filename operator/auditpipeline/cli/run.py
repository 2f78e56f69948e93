"""`auditpipeline run`: an AuditPipeline without Kubernetes.

    pipeline.yaml --render--> memory  --followed by--> the data plane
    DATA/ca.key --renew--> DATA/tls/* --followed by--> its listeners
    --audit-log --lines--> its intake

Twice a second the pipeline's file is looked at, once a minute the certificates.

A start needs no room on the disk, unless it is the first: then certificates are waited for. What cannot be written for
want of room (certificates, kubeconfig, the copy of the configuration) is tried again, while the spool is delivered.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from auditpipeline.core.errors import AuditPipelineError, Failed, Invalid

if TYPE_CHECKING:
    from auditpipeline.cli.run_folder import DataFolder
    from auditpipeline.cli.run_pipeline import Loaded, PipelineFile
    from auditpipeline.cli.serve import Deadline
    from auditpipeline.control.standalone import Places
    from auditpipeline.dataplane.log import Log
    from auditpipeline.dataplane.plane import Plane

LOOK_SECONDS = 0.5
RENEW_SECONDS = 60.0
_PART_SECONDS = 5.0
_UNWRITTEN = "kubeconfig and configuration cannot be written; trying again"
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_PATH = click.Path(path_type=Path)


class Options(NamedTuple):
    """The options as they were given."""

    listen: str
    listen_ops: str
    hostnames: tuple[str, ...]
    data_dir: Path | None
    kubeconfig: Path | None
    audit_logs: tuple[Path, ...]
    secrets_dir: Path | None
    redaction_key: Path | None
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
    "--audit-log",
    "audit_logs",
    type=click.Path(path_type=Path, readable=False),  # one that cannot be read is waited for, as a missing one is
    multiple=True,
    metavar="FILE",
    help="Read the file that kube-apiserver's --audit-log-path names, too; repeatable.",
)
@click.option("--secrets-dir", type=_PATH, metavar="DIR", help="Where the outputs' Secrets lie, as DIR/SECRET/KEY.")
@click.option(
    "--redaction-key",
    type=_PATH,
    metavar="FILE",
    help="The key of hashes, for a pipeline whose redaction asks for them. Default: made in the data folder.",
)
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
    from auditpipeline.cli.logs import configure, for_this_stream
    from auditpipeline.cli.run_folder import DataFolder, check_kubeconfig
    from auditpipeline.cli.run_logs import checked
    from auditpipeline.cli.run_pipeline import PipelineFile
    from auditpipeline.cli.serve import run_to_end
    from auditpipeline.control.standalone import Places

    options = Options(**given)
    hosts = _hosts(options.listen, "--listen", options.hostnames)
    _hosts(options.listen_ops, "--listen-ops", ())
    if options.kubeconfig:
        check_kubeconfig(options.kubeconfig)
    audit_logs = checked(options.audit_logs)
    file = PipelineFile(pipeline)
    loaded = file.load()
    folder = DataFolder((options.data_dir or _default_folder(loaded.pipeline.metadata.name)).absolute())
    secrets = str(options.secrets_dir.absolute()) if options.secrets_dir else ""
    key = str(options.redaction_key.absolute()) if options.redaction_key else ""
    root = str(Path(options.root).absolute())
    places = Places(str(folder.path), root, secrets, options.listen, options.listen_ops, key)
    configure()
    standalone = Standalone(file, loaded, folder, places, for_this_stream())
    standalone.hosts, standalone.also, standalone.audit_logs = hosts, options.kubeconfig, audit_logs
    run_to_end(standalone.run)


class Standalone:
    """One process with what it needs."""

    def __init__(self, file: PipelineFile, loaded: Loaded, folder: DataFolder, places: Places, log: Log) -> None:
        from auditpipeline.dataplane.source import Rendered

        self.hosts: tuple[str, ...] = ()
        self.also: Path | None = None
        self.audit_logs: tuple[Path, ...] = ()
        self._file = file
        self._loaded = loaded
        self._folder = folder
        self._places = places
        self._log = log
        self._source = Rendered()
        self._copy = b""
        self._stale = True
        self._plane: Plane | None = None
        self._told: tuple[str, ...] = ()
        self._complaints: set[str] = set()
        self._server = ""

    async def run(self, deadline: Deadline) -> None:
        """Runs until a signal, or until `expireAfter` is over. AuditPipelineError if it cannot start, Failed if a part
        of it ended that has to run."""
        from auditpipeline.cli.serve import stop_on_signals
        from auditpipeline.dataplane.run import run as run_plane

        stop, stop_plane = stop_on_signals(deadline), asyncio.Event()
        if not await self._prepared(stop):
            return
        ready: asyncio.Future[Plane] = asyncio.get_running_loop().create_future()

        def on_ready(plane: Plane) -> None:
            if not ready.done():
                ready.set_result(plane)

        running = run_plane(self._source, stop=stop_plane, on_ready=on_ready, log=self._log)
        plane = asyncio.create_task(running, name="plane")
        keeping = asyncio.create_task(self._keep(stop), name="keeper")
        attending = asyncio.create_task(self._attend(ready, stop), name="sources")
        told = asyncio.create_task(stop.wait())
        parts: list[asyncio.Task[Any]] = [plane, keeping, attending]
        try:
            await asyncio.wait([*parts, told], return_when=asyncio.FIRST_COMPLETED)
            ended = [] if stop.is_set() else [part.get_name() for part in parts if part.done()]
        finally:
            stop.set()
            ready.cancel()
            await asyncio.wait([keeping, attending], timeout=_PART_SECONDS)
            stop_plane.set()
            await asyncio.wait([plane])
            for task in (told, keeping, attending):
                task.cancel()
        self._check(parts, ended)

    def _check(self, parts: Sequence[asyncio.Task[Any]], ended: Sequence[str]) -> None:
        """Raises what made a part end: the plane's own error as it is, since it says what to do."""
        for part in parts:
            error = part.exception() if part.done() and not part.cancelled() else None
            if isinstance(error, AuditPipelineError):
                raise error
            if error:
                self._log.error("a part ended that has to run", part=part.get_name(), exc_info=error)
                raise Failed(f"{part.get_name()}: {type(error).__name__}: {error}")
        if ended:
            raise Failed(f"ended by itself: {', '.join(ended)}")

    async def _prepared(self, stop: asyncio.Event) -> bool:
        """Makes folder, configuration and certificates, and waits for room if there is none; False if told to stop
        before. Invalid if something is missing, OSError if it is no want of room."""
        from auditpipeline.dataplane.disk import is_full

        while not stop.is_set():
            try:
                self._folder.make()
                self._put(self._loaded)
                self._renew_or_serve()
                return True
            except OSError as error:
                if not is_full(error):
                    raise
                self._complain("the first start waits: the disk is full", error)
            await _pause(stop, LOOK_SECONDS)
        return False

    def _renew_or_serve(self) -> None:
        """Certificates that are old are better than none: they are tried again."""
        try:
            self._folder.renew(self.hosts)
        except OSError as error:
            if not self._folder.servable:
                raise
            self._complain("certificates cannot be renewed; trying again", error)

    async def _attend(self, ready: asyncio.Future[Plane], stop: asyncio.Event) -> None:
        """Says that the process is ready, and reads the audit logs, if there are any, until told to stop."""
        from auditpipeline.dataplane.supervise import Supervised

        self._plane = plane = await ready
        self._server = f"https://{_bracketed(self.hosts[0])}:{plane.audit_port}/audit"
        begun = asyncio.Event()
        plane.reading = Supervised("the reader of the audit log", self._log)
        reading = asyncio.create_task(plane.reading.run(lambda: self._read(plane, begun, stop), stop))
        while not self._written() and not await _pause(stop, LOOK_SECONDS):
            pass
        await _either(begun, stop)
        if not stop.is_set():
            self._say_ready(f"https://{_bracketed(self.hosts[0])}:{plane.ops_port}")
        await reading

    async def _read(self, plane: Plane, begun: asyncio.Event, stop: asyncio.Event) -> None:
        """Reads the audit logs until told to stop. `begun` is set once their places are found, or were looked for in
        vain."""
        from auditpipeline.cli.run_logs import Logs

        try:
            logs = Logs(self.audit_logs, self._folder, plane, self._log)
            await logs.start()
        finally:
            begun.set()
        await logs.run(stop)
        await stop.wait()

    async def _keep(self, stop: asyncio.Event) -> None:
        """Follows the pipeline's file, renews certificates, and ends an expired pipeline."""
        loop = asyncio.get_running_loop()
        started = renewed = loop.time()
        while not await _pause(stop, LOOK_SECONDS):
            try:
                self._look()
                if loop.time() - renewed >= RENEW_SECONDS:
                    renewed = loop.time()
                    self._renew()
                self._written()
            except Exception as error:  # a fault of ours must not keep the rest from being kept
                if self._complain("the pipeline's file and the certificates are not kept up: internal error", error):
                    self._log.exception("internal error")
            seconds = self._loaded.seconds
            if seconds is not None and loop.time() - started >= seconds:
                self._log.warning("spec.expireAfter is over: stopping", after=self._loaded.pipeline.spec.expire_after)
                stop.set()

    def _look(self) -> None:
        """Puts a changed pipeline in force; says in the status why it is not, if it is refused."""
        if not self._file.changed():
            return
        try:
            self._put(self._file.load())
            self._settle("the changed pipeline cannot be read; trying again")
        except AuditPipelineError as error:
            self._refuse(error)
            self._log.error("the changed pipeline is refused, the old one stays in force", error=str(error))
        except OSError as error:
            self._file.forget()
            self._refuse(error)
            self._complain("the changed pipeline cannot be read; trying again", error)

    def _refuse(self, error: Exception) -> None:
        if self._plane:
            self._plane.config_error = str(error)

    def _put(self, loaded: Loaded) -> None:
        """Renders a pipeline for the data plane, which follows it."""
        from auditpipeline.cli.run_pipeline import prepare

        if loaded.pipeline.metadata.name != self._loaded.pipeline.metadata.name:
            raise Invalid("metadata.name", "is another one now: start another process for it")
        if loaded.hashes and not self._places.redaction_key:
            self._folder.make_key()
        prepared = prepare(loaded, self._places)
        self._source.put(prepared.body)
        self._loaded, self._copy, self._stale = loaded, prepared.body, True
        if loaded.ignored and loaded.ignored != self._told:
            self._log.info("fields that mean nothing without Kubernetes are ignored", fields=", ".join(loaded.ignored))
        self._told = loaded.ignored

    def _written(self) -> bool:
        """Writes what other programs and people read, if it differs, once it is known; whether all of it is there."""
        if not self._server or not self._stale:
            return bool(self._server)
        try:
            self._folder.write_kubeconfig(self._server, self.also)
            self._folder.write_copy(self._copy)
            self._stale = False
            self._settle(_UNWRITTEN)
        except OSError as error:
            self._complain(_UNWRITTEN, error)
        return not self._stale

    def _renew(self) -> None:
        event = "certificates cannot be renewed; trying again"
        try:
            fresh = self._folder.renew(self.hosts)
            self._stale = self._stale or bool(fresh)
            if "client.crt" in fresh:
                self._log.warning("the kubeconfig was renewed: restart kube-apiserver, which reads it at its start")
            self._settle(event)
        except OSError as error:
            self._complain(event, error)

    def _complain(self, event: str, error: Exception) -> bool:
        """One line for a state, not one for each try; whether it is a new one."""
        fresh = event not in self._complaints
        if fresh:
            self._complaints.add(event)
            self._log.error(event, error=str(error))
        return fresh

    def _settle(self, event: str) -> None:
        self._complaints.discard(event)

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
        raise Invalid(option, f"{listen!r} is not HOST:PORT, such as 127.0.0.1:9443")
    own = () if host in _EVERYWHERE else (host,)
    return tuple(dict.fromkeys((*hostnames, *own, "127.0.0.1", "localhost")))


async def _pause(stop: asyncio.Event, seconds: float) -> bool:
    """Waits; whether told to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    waiting = [asyncio.create_task(first.wait()), asyncio.create_task(second.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _default_folder(name: str) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/auditpipeline") / name
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "auditpipeline" / name
