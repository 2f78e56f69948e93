"""The project's image, and the pause image, as docker-archive files for `load_image`.

Promises: made from the project's own Dockerfile; named after the hash of everything that goes in, so that an unchanged
tree costs nothing and a changed line costs seconds; no registry is needed. Where Docker answers it builds on the
Dockerfile's default base. Elsewhere buildah builds, as root, on a base that debootstrap makes once, with wheels that
pip downloads on the host, where it is set up to.

The name of the image is always `NAME`: Pods use it with `imagePullPolicy: Never` or IfNotPresent. Another release's
image is built from a folder with its sources, and has another name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import archive, binaries
from .binaries import Missing
from .processes import Failed, run

NAME = "localhost/auditpipeline:test"
PROJECT = Path(__file__).parents[2]
PREVIOUS = "localhost/auditpipeline:previous"
SOURCES = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements/runtime.txt")

_RELEASE, _PYTHON = "bookworm", "311"
_PACKAGES = "python3,ca-certificates"
_BUILD_TOOLS = ("hatchling>=1.27", "pip")
_TRIMMED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)
_KEPT = 3
"""Archives of the project's image that are kept in the cache."""


def build(project: Path = PROJECT, name: str = NAME) -> Path:
    """Build the image of a project if it is not in the cache; raises `Missing` or `Failed`."""
    target = folder() / f"auditpipeline-{name.rpartition(':')[2]}-{_hash(_sources(project), base=project)}.tar"
    if not target.exists():
        partial = target.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        if docker_answers():
            _build_with_docker(partial, project, name)
        else:
            _build_with_buildah(partial, project, name)
        partial.rename(target)
        _forget_all_but_the_latest(name)
    return target


def pause(name: str) -> Path:
    """The image of the Pods' first container."""
    program = binaries.find("pause")["pause"]
    target = folder() / f"pause-{_hash([program], name)}.tar"
    if not target.exists():
        archive.write_static(name, program, target)
    return target


def folder() -> Path:
    """Where image archives are kept between runs."""
    path = binaries.cache_folder() / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


def docker_answers() -> bool:
    """Whether there is a Docker engine that this user may use."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


def _build_with_docker(target: Path, project: Path, name: str) -> None:
    _tell(f"building the image {name} with Docker")
    run(["docker", "build", "--tag", name, str(project)], timeout=1800)
    run(["docker", "save", "--output", str(target), name], timeout=600)


def _build_with_buildah(target: Path, project: Path, name: str) -> None:
    for program in ("buildah", "debootstrap"):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed: install the packages buildah and debootstrap, or Docker")
    if os.geteuid():
        raise Missing("building the image needs root, or Docker")
    requirements = project / "requirements" / "runtime.txt"
    if not _wheels_folder(requirements).exists():
        # Other dependencies than before: the layers of the old ones are big, those of the code are not.
        buildah("rmi", "--prune", "--force")
    base, wheels = _base(), _wheels(requirements)
    (pip,) = wheels.glob("pip-*.whl")
    _tell(f"building the image {name}")
    buildah(
        *[
            "build",
            "--isolation=chroot",
            "--pull-never",
            "--layers",
            "--force-rm",
            f"--tag={name}",
            f"--volume={wheels}:/wheels:ro",
        ],
        *[f"--build-arg=BASE={base}", f"--build-arg=PIP=python3 /wheels/{pip.name}/pip"],
        *["--build-arg=PIP_OPTIONS=--no-index --find-links=/wheels", str(project)],
    )
    buildah("push", name, f"docker-archive:{target}:{name}")


def buildah(*arguments: str) -> str:
    """Run buildah on a storage of our own, so that nobody's images are touched."""
    storage = binaries.cache_folder() / "buildah"
    # Its lock files live in the run root, which a restart may empty.
    options = [f"--root={storage}", f"--runroot={storage / 'run'}", "--storage-driver=overlay"]
    return run(["buildah", *options, *arguments], timeout=1800)


def _base() -> str:
    """The name of the base image, which is made when it is not in buildah's storage yet."""
    name = f"localhost/auditpipeline-base:{_RELEASE}-{_hash([], _PACKAGES, *_TRIMMED)}"
    if name in buildah("images", "--format={{.Name}}:{{.Tag}}").split():
        return name
    _tell("making the base of the image with debootstrap, about a minute, once")
    with tempfile.TemporaryDirectory(prefix="auditpipeline-base-") as temporary:
        root = Path(temporary) / "root"
        run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _RELEASE, str(root)], timeout=900)
        for path in _TRIMMED:
            shutil.rmtree(root / path, ignore_errors=True)
        container = buildah("from", "scratch").strip()
        buildah("copy", container, str(root), "/")
        buildah("commit", "--rm", container, name)
    return name


def _wheels(requirements: Path) -> Path:
    """A folder with the wheels of the dependencies, of what builds the project, and of pip itself."""
    target = _wheels_folder(requirements)
    if target.exists():
        return target
    _tell("downloading the wheels of the dependencies")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        wheels = Path(temporary) / "wheels"
        _download(wheels, ["--require-hashes", "--no-deps", "-r", str(requirements)])
        _download(wheels, _BUILD_TOOLS)
        wheels.rename(target)
    return target


def _wheels_folder(requirements: Path) -> Path:
    base = requirements.parents[1]
    return binaries.cache_folder() / "wheels" / _hash([requirements], _PYTHON, *_BUILD_TOOLS, base=base)


def _download(target: Path, what: Sequence[str]) -> None:
    machine = "x86_64" if archive.architecture() == "amd64" else "aarch64"
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, 37)]
    try:
        run(
            [
                *[sys.executable, "-m", "pip", "download", "--quiet", f"--dest={target}", "--only-binary=:all:"],
                *[
                    f"--python-version={_PYTHON}",
                    "--implementation=cp",
                    f"--abi=cp{_PYTHON}",
                    "--abi=abi3",
                    "--abi=none",
                ],
                *[*platforms, f"--platform=manylinux2014_{machine}", "--platform=any", *what],
            ],
            timeout=900,
        )
    except Failed as failed:
        raise Missing(
            f"pip cannot download the wheels of the image: {str(failed).strip().splitlines()[-1]}"
        ) from failed


def _sources(project: Path) -> list[Path]:
    copied = [path for name in ("operator", "manifests/policies") for path in (project / name).rglob("*")]
    files = [path for path in copied if path.is_file() and "__pycache__" not in path.parts]
    return [*(project / name for name in SOURCES), *sorted(files)]


def _hash(files: Iterable[Path], *values: str, base: Path = PROJECT) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{len(value)}:{value}".encode())
    for path in files:
        name = str(path.relative_to(base)) if path.is_relative_to(base) else path.name
        content = path.read_bytes()
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def _forget_all_but_the_latest(name: str) -> None:
    kind = name.rpartition(":")[2]
    archives = sorted(folder().glob(f"auditpipeline-{kind}-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in archives[:-_KEPT]:
        path.unlink()


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
