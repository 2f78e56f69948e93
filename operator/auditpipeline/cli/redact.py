"""`auditpipeline redact`: what redaction takes from an audit log, and old logs without it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from auditpipeline.cli.policy_io import FILE, STDIN
from auditpipeline.cli.policy_io import shown as name_of
from auditpipeline.cli.redact_counts import Counts, Named
from auditpipeline.cli.redact_inplace import clean
from auditpipeline.cli.redact_text import Json, Log, Printer, Text, unread_lines
from auditpipeline.core.errors import AuditPipelineError, Invalid
from auditpipeline.core.redaction.diff import Change
from auditpipeline.core.redaction.model import DEFAULT, KEY_BYTES, MOST_KEY_BYTES, Redaction
from auditpipeline.core.redaction.paths import problems
from auditpipeline.core.redaction.redactor import Redactor
from auditpipeline.core.redaction.rewrite import Applies, Taken
from auditpipeline.core.yamlfile import Document, documents
from auditpipeline.dataplane.sources.packed import MAGIC, Unpacked, packing

_BLOCK = 2**20
_NOBODY_READS = 128 + 13
"""The exit code of a process that ends by SIGPIPE."""
_NEEDS_KEY = (
    "the pipeline's redaction makes hashes, which need the cluster's key: write `key` of the Secret "
    "auditpipeline-redaction to a file that only you can read, and give it as --key FILE"
)


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="P.yaml",
    help="An AuditPipeline: its spec.redaction is applied. Absent: the default.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="KEYFILE",
    help=f"The key of hashes, at least {KEY_BYTES} bytes; needed if the pipeline has any.",
)
@click.option("--in-place", is_flag=True, help="Replace each FILE by one without what is taken.")
@click.option("--summary", is_flag=True, help="Only the counts. --in-place prints nothing else.")
@click.option(
    "--show-values", is_flag=True, help="Print what is taken too: for checking rules, on a terminal of yours."
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def redact(
    files: tuple[Path, ...],
    pipeline: Path | None,
    key: Path | None,
    in_place: bool,
    summary: bool,
    show_values: bool,
    output: str,
) -> int:
    """Show what redaction takes from audit logs, or take it from old ones.

    A line of FILE holds one Event or one EventList, and may be one that a container runtime wrote; gzip, xz and zstd
    are unpacked, - is standard input. Each value that goes is shown by its path, and itself only with --show-values.

    --in-place writes a copy beside FILE, packed as FILE is, with its owner, mode and times, and renames it. It refuses
    a file that somebody has open for writing: rotate it first. What FILE held stays in the free blocks of the disk, in
    snapshots and in backups.

    Exit code 1 if a line is not an audit event: it stays as it is, and may hold secrets. 2 if a FILE cannot be read
    or cleaned.

    \b
    Examples:
      auditpipeline redact /var/log/kubernetes/audit.log
      auditpipeline redact --in-place /var/log/kubernetes/audit-*.log.gz
      zcat audit.log.gz | auditpipeline redact - --pipeline security.yaml --summary
    """
    if in_place and STDIN in files:
        raise click.UsageError("--in-place needs files: standard input cannot be replaced")
    redaction = DEFAULT if pipeline is None else _redaction(pipeline)
    redactor = Redactor(redaction, _key(key, redaction))
    if redactor.idle:
        _complain(f"{pipeline}: its redaction takes nothing: spec.redaction.default is false, and there are no rules")
    printer = (Json if output == "json" else Text)(values=show_values, events=not (summary or in_place))
    try:
        return _each(files, redactor, printer, _cleaned if in_place else _looked_at)
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS


def _each(
    files: tuple[Path, ...],
    redactor: Applies,
    printer: Printer,
    treat: Callable[[Path, Applies, Printer, list[Log]], None],
) -> int:
    """Goes through all files, whatever one of them is; the exit code."""
    logs, failed = list[Log](), False
    for path in files:
        try:
            treat(path, redactor, printer, logs)
        except BrokenPipeError:
            raise
        except AuditPipelineError as error:
            failed = _complain(str(error))
        except OSError as error:
            failed = _complain(f"{name_of(path)}: {error.strerror or error}")
    printer.end(logs)
    sys.stdout.flush()
    for log in logs:
        for line in unread_lines(log.counts):
            _complain(line)
    return 2 if failed else 1 if any(log.counts.unread for log in logs) else 0


def _complain(message: str) -> bool:
    click.echo(f"auditpipeline: {' '.join(message.split())}", err=True)
    return True


class _Showing(Counts):
    """Counts, and prints each event."""

    def __init__(self, log: Path, redactor: Applies, printer: Printer) -> None:
        super().__init__(log, redactor)
        self._printer = printer

    def shown(self, event: Named, taken: Taken, found: list[Change]) -> None:
        self._printer.event(name_of(self.log), event, taken, found)


def _looked_at(path: Path, redactor: Applies, printer: Printer, logs: list[Log]) -> None:
    counts = _Showing(path, redactor, printer)
    with _blocks(path) as blocks:
        logs.append(Log(counts))  # what can be read of a damaged one counts
        for _ in counts.rewritten(blocks):
            pass


def _cleaned(path: Path, redactor: Applies, _: Printer, logs: list[Log]) -> None:
    passes = list[Counts]()

    def begin() -> Counts:
        passes.append(Counts(path, redactor))
        return passes[-1]

    replaced = clean(path, begin)
    logs.append(Log(passes[-1], "replaced" if replaced else "not touched"))


@contextmanager
def _blocks(path: Path) -> Iterator[Iterator[bytes]]:
    """A log in blocks, unpacked; Invalid behind the last one that can be read, if it is damaged."""
    if path == STDIN:
        yield _from_stdin(cast("io.BufferedReader", sys.stdin.buffer))
        return
    with path.open("rb", buffering=0) as raw:
        kind = packing(raw) if path.is_file() else ""
        yield _unpacked(Unpacked(raw, kind), path) if kind else iter(lambda: raw.read(_BLOCK), b"")


def _from_stdin(file: io.BufferedReader) -> Iterator[bytes]:
    if file.peek(6).startswith(MAGIC):
        raise Invalid(name_of(STDIN), "it is packed: unpack it on the way, as in zcat FILE | auditpipeline redact -")
    while data := file.read1(_BLOCK):
        yield data


def _unpacked(content: Unpacked, path: Path) -> Iterator[bytes]:
    offset = 0
    while data := content.at(offset, _BLOCK):
        offset += len(data)
        yield data
    if content.fault:
        raise Invalid(str(path), content.fault)


def _redaction(path: Path) -> Redaction:
    """`spec.redaction` of the one AuditPipeline of a file; the default if it has none."""
    found = [each for each in documents(path.read_bytes(), str(path)) if _is_pipeline(each.value)]
    if len(found) != 1:
        raise Invalid(
            str(path), f"{len(found) or 'no'} AuditPipeline{'s' if len(found) > 1 else ''} in it: one is needed"
        )
    (document,) = found
    spec = document.value.get("spec")
    try:
        given = spec.get("redaction") if isinstance(spec, dict) else None
        redaction = DEFAULT if given is None else msgspec.convert(given, Redaction)
    except msgspec.ValidationError as error:
        message, _, below = str(error).partition(" - at `$")
        raise _at(document, f"spec.redaction{below.rstrip('`')}", message[:1].lower() + message[1:]) from None
    for problem in problems(redaction, "spec.redaction"):
        raise _at(document, problem.path, problem.message)
    return redaction


def _at(document: Document, field: str, message: str) -> Invalid:
    line, column = document.position(field)
    return Invalid(f"{document.file}:{line}:{column}", f"{field}: {message}")


def _is_pipeline(value: Any) -> bool:
    return isinstance(value, dict) and value.get("kind") == "AuditPipeline"


def _key(path: Path | None, redaction: Redaction) -> bytes | None:
    if path is None:
        if redaction.hashes:
            raise click.UsageError(_NEEDS_KEY)
        return None
    with path.open("rb") as file:
        key = file.read(MOST_KEY_BYTES + 1)
    if not KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise Invalid(str(path), f"a key has {KEY_BYTES} to {MOST_KEY_BYTES} bytes; this one has {len(key)}")
    return key
