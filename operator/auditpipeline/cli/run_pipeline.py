"""The pipeline's file of `auditpipeline run`: read, checked against this machine, rendered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from auditpipeline.control import names, standalone
from auditpipeline.control.standalone import Places
from auditpipeline.core import config as contract
from auditpipeline.core.config import Config, FileOutput
from auditpipeline.core.errors import Invalid
from auditpipeline.core.quantity import parse_seconds
from auditpipeline.core.redaction.model import KEY_BYTES, MOST_KEY_BYTES
from auditpipeline.core.spec import Pipeline, parse_pipeline
from auditpipeline.core.yamlfile import documents
from auditpipeline.dataplane.disk import is_full

_Stamp = tuple[int, int, int]


class Loaded(NamedTuple):
    """A pipeline that was read. `ignored` are the fields that mean nothing without Kubernetes."""

    pipeline: Pipeline
    ignored: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """`expireAfter`."""
        after = self.pipeline.spec.expire_after
        return None if after is None else parse_seconds(after, "spec.expireAfter")

    @property
    def hashes(self) -> bool:
        """Whether the key of hashes is needed."""
        return bool(self.pipeline.spec.redaction and self.pipeline.spec.redaction.hashes)


class Prepared(NamedTuple):
    """A pipeline with the configuration to run it, encoded."""

    loaded: Loaded
    body: bytes


class PipelineFile:
    """One file with one AuditPipeline; other objects in it are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: _Stamp | None = None

    def load(self) -> Loaded:
        """The pipeline; Invalid with file, line and column, OSError where the file cannot be read."""
        found = self.path.stat()
        self._stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        found_here = [each for each in documents(self.path.read_bytes(), str(self.path)) if _is_pipeline(each.value)]
        if len(found_here) != 1:
            message = "no AuditPipeline" if not found_here else f"{len(found_here)} AuditPipelines"
            raise Invalid(str(self.path), f"{message} of {names.API_VERSION} in it: one is needed, a process runs one")
        (document,) = found_here
        try:
            return Loaded(parse_pipeline(document.value), tuple(standalone.ignored(document.value)))
        except Invalid as error:
            line, column = document.position(error.path)
            raise Invalid(f"{self.path}:{line}:{column}", str(error)) from None

    def forget(self) -> None:
        """Makes `changed` return True again: it could not be read, or there was no room for what it says."""
        self._stamp = None

    def changed(self) -> bool:
        """Whether it is another file since it was loaded; one that is gone is no change."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_ino, found.st_mtime_ns, found.st_size) != self._stamp


def _is_pipeline(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("kind") == "AuditPipeline"
        and value.get("apiVersion") == names.API_VERSION
    )


def prepare(loaded: Loaded, places: Places) -> Prepared:
    """The configuration of the pipeline; Invalid where this machine lacks what it needs."""
    _check_secrets(loaded.pipeline, places.secrets)
    config = standalone.configuration(loaded.pipeline, places)
    _check_files(config)
    if config.redaction_key_file:
        _check_key(Path(config.redaction_key_file))
    return Prepared(loaded, contract.encode(config))


def _check_secrets(pipeline: Pipeline, folder: str) -> None:
    wanted = standalone.secret_files(pipeline)
    if wanted and not folder:
        raise Invalid("--secrets-dir", f"is needed: the outputs read {', '.join(wanted)} from it, as SECRET/KEY")
    missing = [name for name in wanted if not os.access(f"{folder}/{name}", os.R_OK)]
    if missing:
        raise Invalid("--secrets-dir", f"{folder} has no readable {', '.join(missing)}: put each value in its file")


def _check_key(path: Path) -> None:
    """Without a key that can be used the values would be masked, which is not what was asked for."""
    try:
        size = len(path.read_bytes())
    except OSError as error:
        raise Invalid("--redaction-key", f"{path} cannot be read: {error.strerror or error}") from None
    if not KEY_BYTES <= size <= MOST_KEY_BYTES:
        needed = f"{KEY_BYTES} to {MOST_KEY_BYTES} are needed"
        raise Invalid(
            "--redaction-key", f"{path} has {size} bytes, and {needed}: head -c {KEY_BYTES} /dev/urandom > KEY"
        )


def _check_files(config: Config) -> None:
    """Each file's folder is made, if it can be."""
    for route in config.routes:
        if isinstance(route.output, FileOutput):
            path = Path(route.output.path)
            try:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                writable = os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK))
                reason = "" if writable else "no right to write there"
            except OSError as error:
                # A full disk is the output's to wait for.
                reason = "" if is_full(error) else error.strerror or str(error)
            if reason:
                raise Invalid(f"output {route.name}", f"{path}: {reason}; start as its owner, or give --root DIR")
