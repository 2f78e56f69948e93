"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager, without root.

Promises: started in seconds on a free port with a PKI of its own, RBAC on, default admission, no feature gate touched;
`stop()` leaves no process and no file. There is no scheduler and no kubelet: Pods stay Pending, everything else
(garbage collection, namespaces, service accounts, StatefulSets that make their Pods) is real.

Every ClusterIP is a loopback address (127.96.0.0/16): whoever listens on a Service's ClusterIP and port *is* that
Service, for kube-apiserver and for every client on this machine, without kube-proxy.

    with ControlPlane(audit_policy=policy, audit_webhook_kubeconfig=webhook) as cluster:
        cluster.kubectl("create", "namespace", "one", kubeconfig=cluster.user_kubeconfig("alice", ["team"]))
"""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from . import binaries, flags
from .flags import Audit, Credentials, Site
from .pki import Authority, service_account_key
from .processes import Failed, Process, resident, run, wait_for

START_TIMEOUT = 120
ADMINS = "system:masters"


class ControlPlane:
    """A control plane: a context manager, or plain `start()` and `stop()`. One thread at a time may use it."""

    programs: tuple[str, ...] = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
    site = Site()
    parent: Path | None = None
    apiserver_args: tuple[str, ...] = ()
    manager_args: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        audit_policy: Path | None = None,
        audit_webhook_kubeconfig: Path | None = None,
        audit_log: Path | None = None,
        extra_apiserver_args: Sequence[str] = (),
    ) -> None:
        self.audit = Audit(audit_policy, audit_webhook_kubeconfig, audit_log)
        self._extra_apiserver_args = list(extra_apiserver_args)
        self._data: Path | None = None
        self._port = 0
        self._found: dict[str, Path] = {}
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def data(self) -> Path:
        """The folder of this run with its PKI, kubeconfigs and logs; gone after `stop()`."""
        if self._data is None:
            raise Failed("the cluster is not started")
        return self._data

    @property
    def url(self) -> str:
        """Where kube-apiserver listens."""
        return f"https://{self.site.address}:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator (group system:masters)."""
        return self.user_kubeconfig("admin", [ADMINS])

    def user_kubeconfig(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user in any groups; RBAC alone decides what that user may do."""
        stem = "_".join([name, *groups]).translate(str.maketrans(":/", "--"))
        path = self.data / "users" / f"{stem}.kubeconfig"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.authority.kubeconfig(path, self.url, self.authority.client(f"client-{stem}", name, groups))
        return path

    def kubectl(self, *args: str, input: str | None = None, kubeconfig: Path | None = None) -> str:  # noqa: A002
        """Run kubectl as the administrator, or with `kubeconfig`; raises `Failed` with what it says on stderr."""
        return run(self.kubectl_command(*args, kubeconfig=kubeconfig), stdin=input)

    def kubectl_command(self, *args: str, kubeconfig: Path | None = None) -> list[str]:
        """The command line of one kubectl call, for whoever wants to run it otherwise."""
        flag = f"--kubeconfig={kubeconfig or self.kubeconfig}"
        return self.entered([str(self._found["kubectl"]), flag, *args])

    def start(self) -> None:
        """Start everything; returns when the cluster is ready. When it fails, nothing is left but its exception."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill every process and delete every file; may be called twice."""
        # Nothing here is worth a graceful end: kube-apiserver alone would take more than a minute.
        for process in reversed(self._processes.values()):
            process.stop(signal.SIGKILL)
        self._processes.clear()
        if self._data:
            shutil.rmtree(self._data)
            self._data = None

    def start_apiserver(self) -> None:
        """Start kube-apiserver, which reads its audit files now, and wait until it is ready."""
        command = flags.apiserver(self.data, self.site, self._port, self._credentials)
        self._launch(
            "kube-apiserver", [*command, *flags.audit(self.audit), *self.apiserver_args, *self._extra_apiserver_args]
        )
        self.wait_for("ready kube-apiserver", self.ready)

    def stop_apiserver(self, sig: int = signal.SIGKILL) -> None:
        """Stop kube-apiserver. SIGTERM flushes its audit backends, but takes more than a minute with open watches."""
        self._processes.pop("kube-apiserver").stop(sig)

    def restart_apiserver(self, sig: int = signal.SIGKILL) -> None:
        """Restart kube-apiserver at the same address."""
        self.stop_apiserver(sig)
        self.start_apiserver()

    def snapshot(self) -> Path:
        """A copy of what etcd holds, for `restore`. etcd is away for the moment that it takes."""
        target = self.data / "snapshots" / str(len(list(self.data.glob("snapshots/*"))))
        self._processes["etcd"].stop()
        shutil.copytree(self.data / "etcd", target)
        self._processes["etcd"].start()
        self.wait_for("ready kube-apiserver", self.ready)
        return target

    def restore(self, snapshot: Path) -> None:
        """Put back what etcd held at a `snapshot`, as an administrator does: every program of the control plane is
        stopped and started again, at the same addresses. Resource versions go on from those of the snapshot."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._processes[name].stop()
        shutil.rmtree(self.data / "etcd")
        shutil.copytree(snapshot, self.data / "etcd")
        begun = [self._processes["etcd"], self._processes["kube-apiserver"]]
        for process in begun:
            process.start()
        wait_for("ready kube-apiserver", self.ready, START_TIMEOUT, begun)
        self._processes["kube-controller-manager"].start()  # it gives up soon where no API server is ready

    def ready(self) -> bool:
        """Whether /readyz answers 200 now."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.load_cert_chain(self._admin.certificate, self._admin.key)
        connection = http.client.HTTPSConnection(self.site.address, self._port, timeout=2, context=context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def wait_for(self, what: str, state: Callable[[], bool], timeout: float = START_TIMEOUT) -> None:
        """Wait until `state()` is true; fails at once when a process of this cluster ends."""
        wait_for(what, state, timeout, self._processes.values())

    @property
    def processes(self) -> list[Process]:
        """The running processes, in the order they were started."""
        return list(self._processes.values())

    def memory(self) -> dict[str, int]:
        """Resident bytes of each program."""
        return {name: resident(process.pid) for name, process in self._processes.items()}

    def find(self) -> dict[str, Path]:
        """The programs by name, built where they are nowhere; raises `binaries.Missing`."""
        return binaries.find(*self.programs)

    def entered(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` where the API is reached: a node enters its network."""
        return list(command)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line of a server program: a node enters all of its namespaces."""
        return list(command)

    def _start(self) -> None:
        self._prepare()
        self._launch("etcd", flags.etcd(self.data))
        self.start_apiserver()
        manager = self.user_kubeconfig("system:kube-controller-manager")
        command = flags.controller_manager(manager, self._credentials)
        self._launch("kube-controller-manager", [*command, *self.manager_args])
        self.wait_for("default service account", self._service_account_made)

    def _prepare(self) -> None:
        self._found = self.find()
        self._data = Path(tempfile.mkdtemp(prefix="auditpipeline-", dir=self.parent))
        self._port = self.site.port or _free_port(self.site.address)
        self.authority = Authority(self.data / "pki")
        self._admin = self.authority.client("admin", "admin", [ADMINS])
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        serving = self.authority.serving(
            "kube-apiserver", [*names, self.site.address, "127.0.0.1", self.site.first_service]
        )
        tokens = service_account_key(self.data / "pki" / "service-accounts.key")
        self._credentials = Credentials(self.authority.pair, serving, tokens)

    def _launch(self, name: str, arguments: Sequence[str]) -> None:
        command = self.inside([str(self._found[name]), *arguments])
        self._processes[name] = Process(name, command, self.data / f"{name}.log", cwd=self.data)
        self._processes[name].start()

    def _service_account_made(self) -> bool:
        return "default" in self.kubectl("get", "serviceaccounts", "-n", "default", "-o", "name")


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
