"""Kubernetes 1.18, the last release with dynamic auditing: kube-apiserver serves AuditSink and posts to it by itself.

Its programs are built like the current ones, from Go modules. One file of Kubernetes is in no module, because it is
generated when Kubernetes is built: the definitions of the API's types (OpenAPI). So the modules are vendored into a
folder of the build, the file is generated there by the generator that Kubernetes uses, and the folder goes afterwards.
One comparison of a library is mended there too: it looks at addresses, which were never the same when this release was
made, and are the same for empty strings since Go 1.18; custom resources with an empty string would be refused.

1.18.19: of 1.18.20 only kube-apiserver itself is to be had as a module, and none of the libraries of its release.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import binaries
from .binaries import Missing, Toolchain, run_go
from .controlplane import ControlPlane
from .flags import Site

_OPENAPI = "k8s.io/kubernetes/pkg/generated/openapi"
_COMPARISON = "data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))"
_TAG = "+k8s:openapi-gen=true"
# Marked, and no types of the API: the generator cannot read the first, kube-apiserver does not serve the others.
_NOT_SERVED = ("k8s.io/kube-openapi/", "k8s.io/client-go/pkg/apis/clientauthentication", "k8s.io/kubernetes/pkg/apis/")


def generate(source: Path) -> None:
    """Vendor the modules of a go.mod, and generate among them what Kubernetes generates when it is built."""
    go = shutil.which("go") or "go"
    _checked([go, "mod", "vendor"], source, "mod")
    _checked([go, "build", "-o", "openapi-gen", "k8s.io/kube-openapi/cmd/openapi-gen"], source)
    header = source / "header.txt"
    header.touch()
    packages = ",".join(_marked(source / "vendor"))
    command = [str(source / "openapi-gen"), "-i", packages, "-p", _OPENAPI, "-O", "zz_generated.openapi", "-o", "out"]
    _checked([*command, "--go-header-file", str(header), "-r", "violations.txt"], source)
    made = Path(_OPENAPI) / "zz_generated.openapi.go"
    shutil.copyfile(source / "out" / made, source / "vendor" / made)
    _mend(source / "vendor/github.com/go-openapi/validate/type.go", _COMPARISON, "data == nil")


def _mend(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if text.count(old) != 1:
        raise Missing(f"{file.name} is not as expected: look at tests/cluster/native.py")
    file.write_text(text.replace(old, new))


def _marked(vendor: Path) -> Iterator[str]:
    """The packages whose types are part of the API."""
    folders = {path.parent for path in vendor.glob("k8s.io/**/*.go") if _TAG in path.read_text()}
    names = sorted(str(folder.relative_to(vendor)) for folder in folders)
    return (name for name in names if not name.startswith(_NOT_SERVED))


def _checked(command: Sequence[str], source: Path, mode: str = "vendor") -> None:
    done = run_go(command, source, mode)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Missing(f"{command[0]} {command[1]} failed: {said[-1] if said else done.returncode}")


NATIVE = Toolchain(
    "native",
    "k8s.io/kubernetes",
    {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager")},
    {"kube-apiserver": 130, "kube-controller-manager": 60},
    prepare=generate,
)


class NativeControlPlane(ControlPlane):
    """A control plane of 1.18 with dynamic auditing switched on; etcd and kubectl are the current ones."""

    # Before it starts, this release takes what follows `unix://` up to the next slash for the socket.
    site = Site(etcd="unix://etcd.sock")
    apiserver_args = (
        "--insecure-port=0",
        "--feature-gates=DynamicAuditing=true",
        "--audit-dynamic-configuration",
        "--runtime-config=auditregistration.k8s.io/v1alpha1=true",
    )
    manager_args = ("--port=0",)

    def find(self) -> dict[str, Path]:
        """The programs by name, built where they are nowhere; raises `Missing`."""
        return {**binaries.find("etcd", "kubectl"), **binaries.find_in(NATIVE)}

    def entered(self, command: Sequence[str]) -> list[str]:
        """The current kubectl would have this release stream its lists, which it cannot."""
        return ["env", "KUBE_FEATURE_WatchListClient=false", *command]
