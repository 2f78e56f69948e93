"""Where the programs of a test cluster come from.

Promises: `find` looks into KUBEBUILDER_ASSETS, then into the cache, then on PATH, and only then builds; a build happens
once for each version and machine, shows its progress on standard error, is never done twice at the same time, and
leaves either whole programs in the cache or none. What cannot be had raises `Missing`, whose one line says what to do.

The versions are those of the `toolchain/*/go.mod` beside this file: the cache is named after them, so that raising one
there is all that an upgrade needs. Nothing is downloaded but Go modules.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = Path(__file__).parent / "toolchain"
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


class Missing(RuntimeError):
    """Something that has to be installed first; the message is one line that says what."""


@dataclass(frozen=True)
class Toolchain:
    """Programs that are built from one go.mod, and about how many seconds each takes on two idle cores."""

    name: str
    module: str
    packages: dict[str, str]
    seconds: dict[str, int] = field(default_factory=dict)
    own: Path | None = None
    """The folder of a program of our own that lies elsewhere: its version changes with its source."""
    prepare: Callable[[Path], None] | None = None
    """What has to be done in a copy of the folder before the build, where a go.mod alone does not do."""

    @property
    def folder(self) -> Path:
        """The folder of its go.mod."""
        return self.own or _FOLDER / self.name

    @property
    def version(self) -> str:
        """The required version of `module`, without the `v`; 1 for a program of our own."""
        found = re.search(rf"{re.escape(self.module)} v(\S+)", (self.folder / "go.mod").read_text())
        version = found[1] if found else "1"
        if self.own:
            source = b"".join(path.read_bytes() for path in sorted(self.own.glob("*.go")))
            version += f"-{hashlib.sha256(source).hexdigest()[:8]}"
        return version

    @property
    def cache(self) -> Path:
        """Where its programs are kept."""
        prefix = "" if self.name == "kubernetes" else f"{self.name}-"
        return cache_folder() / "bin" / f"{prefix}{self.version}"

    @property
    def linker_flags(self) -> str:
        """Strip symbols, and say the version that a release would say: clients and API discovery read it."""
        if self.module != "k8s.io/kubernetes":
            return "-s -w"
        major, minor, _ = self.version.split(".", 2)
        values = {"gitVersion": f"v{self.version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        said = [f"-X {package}.{key}={value}" for package in _VERSION_PACKAGES for key, value in values.items()]
        # Old modules reach into the runtime by names that newer linkers guard.
        reach = ["-checklinkname=0"] if self.prepare else []
        return " ".join(["-s -w", *reach, *said])


KUBERNETES = Toolchain(
    "kubernetes",
    "k8s.io/kubernetes",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        **{
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-proxy",
                "kubelet",
                "kubectl",
            )
        },
    },
    {"kube-apiserver": 400, "kube-controller-manager": 160, "kubelet": 40, "kubectl": 40},
)
HELM = Toolchain("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}, {"helm": 60})
PAUSE = Toolchain("pause", "auditpipeline.dev/tests/cluster/pause", {"pause": "."}, {"pause": 5})
ORACLE = Toolchain(
    "oracle",
    "k8s.io/apiserver",
    {"policy-oracle": "auditpipeline.dev/tests/policy-oracle"},
    {"policy-oracle": 60},
    Path(__file__).parents[1] / "oracle",
)
SCHEMAS = Toolchain(
    "schemas",
    "k8s.io/kubernetes",
    {"bootstrap-schemas": "auditpipeline.dev/tests/bootstrap-schemas"},
    {"bootstrap-schemas": 75},
    Path(__file__).parents[1] / "schemas",
)
TOOLCHAINS = (KUBERNETES, HELM, PAUSE, ORACLE, SCHEMAS)
PACKAGED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
"""Programs that the distribution packages: name and Debian package."""


def cache_folder() -> Path:
    """The folder that programs and images are kept in between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "auditpipeline"


def find_in(toolchain: Toolchain) -> dict[str, Path]:
    """All programs of one toolchain, from the cache or built; raises `Missing`."""
    return _build(toolchain, list(toolchain.packages))


def find(*names: str) -> dict[str, Path]:
    """Find each named program, building those that are nowhere; raises `Missing`."""
    found = {name: path for name in names if (path := _present(name))}
    for name in names:
        if name not in found and name in PACKAGED:
            raise Missing(f"{name} is not installed: install the package {PACKAGED[name]}")
    for toolchain in TOOLCHAINS:
        wanted = [name for name in names if name not in found and name in toolchain.packages]
        if wanted:
            # Where servers are built, a client of the same version costs little more.
            client = ["kubectl"] if toolchain is KUBERNETES and "kubectl" in names else []
            found |= _build(toolchain, [*wanted, *(name for name in client if name not in wanted)])
    unknown = [name for name in names if name not in found]
    if unknown:
        raise Missing(f"nothing here knows where {', '.join(unknown)} comes from: put it on PATH")
    return found


def version() -> str:
    """The Kubernetes version that is built when none is installed."""
    return KUBERNETES.version


def _present(name: str) -> Path | None:
    folders = [Path(assets)] if (assets := os.environ.get("KUBEBUILDER_ASSETS")) else []
    # The cache goes before PATH: programs of one version belong together, and a kubectl on PATH may be years older.
    folders += [toolchain.cache for toolchain in TOOLCHAINS if name in toolchain.packages]
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return folder / name
    # Root's programs are not on everybody's PATH.
    on_path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    return Path(on_path) if on_path else None


def _build(toolchain: Toolchain, names: Sequence[str]) -> dict[str, Path]:
    if all((toolchain.cache / name).exists() for name in names):
        return {name: toolchain.cache / name for name in names}
    go = shutil.which("go")
    if go is None:
        raise Missing(
            f"{', '.join(names)}: nothing found. Install Go {_go_version(toolchain)} or newer, which builds them once,"
            " or set KUBEBUILDER_ASSETS to a folder that has them"
        )
    toolchain.cache.mkdir(parents=True, exist_ok=True)
    with _only_one(toolchain.cache.with_name(f"{toolchain.cache.name}.lock")):
        # Another process may have built them while this one waited for the lock.
        wanted = [name for name in names if not (toolchain.cache / name).exists()]
        if wanted:
            with tempfile.TemporaryDirectory(dir=toolchain.cache, prefix=".building-") as folder:
                _go_build(go, toolchain, wanted, Path(folder))
                for name in wanted:
                    (Path(folder) / _built_name(toolchain.packages[name])).rename(toolchain.cache / name)
    return {name: toolchain.cache / name for name in names}


def _go_build(go: str, toolchain: Toolchain, names: Sequence[str], folder: Path) -> None:
    about = sum(toolchain.seconds.get(name, 20) for name in names)
    what = f"{', '.join(names)} {toolchain.version}"
    command = [
        *[go, "build", "-trimpath", "-buildvcs=false", "-ldflags", toolchain.linker_flags],
        *["-o", f"{folder}/", *(toolchain.packages[name] for name in names)],
    ]
    with _progress(what, about), _prepared(toolchain) as (source, mode):
        done = run_go(command, source, mode)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise Missing(f"building {what} failed: {_advice(lines, toolchain)}")


def run_go(command: Sequence[str], folder: Path, mode: str = "readonly") -> subprocess.CompletedProcess[str]:
    """Run the go command, or a program that calls it, in the folder of a module; `mode` is that of -mod."""
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": f"-mod={mode}", "GODEBUG": "gotypesalias=0"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@contextmanager
def _prepared(toolchain: Toolchain) -> Iterator[tuple[Path, str]]:
    """The folder to build in, and its -mod: a copy with everything vendored where something has to be prepared."""
    if toolchain.prepare is None:
        yield toolchain.folder, "readonly"
        return
    with tempfile.TemporaryDirectory(dir=toolchain.cache, prefix=".source-") as copy:
        source = Path(copy) / "source"
        shutil.copytree(toolchain.folder, source)
        toolchain.prepare(source)
        yield source, "vendor"


def _advice(lines: Sequence[str], toolchain: Toolchain) -> str:
    last = lines[-1] if lines else "go build said nothing"
    if any("requires go >=" in line for line in lines):
        return f"install Go {_go_version(toolchain)} or newer ({last})"
    if any(sign in line for line in lines for sign in ("dial tcp", "lookup ", "proxyconnect", "i/o timeout")):
        return f"Go modules cannot be downloaded: connect to the network or set GOPROXY ({last})"
    return last


def _go_version(toolchain: Toolchain) -> str:
    found = re.search(r"^go (\S+)", (toolchain.folder / "go.mod").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _built_name(package: str) -> str:
    # As `go build` names it: the last part of the path that is not a major version.
    parts = package.split("/") if package != "." else ["pause"]
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another build ({lock})", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(what: str, about: int) -> Iterator[None]:
    begun = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while True:
            elapsed = time.monotonic() - begun
            print(f"building {what}: {elapsed:.0f} s of about {about} s", file=sys.stderr, flush=True)
            if done.wait(15):
                return

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
