"""What the policy commands share: reading files and standard input, and tables for people."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from auditpipeline.core.errors import Invalid
from auditpipeline.core.policyfile import Source, load, read, usable

STDIN = Path("-")
FILE = click.Path(path_type=Path, allow_dash=True)
_BIG = 4 * 1024 * 1024
_STEP = 1000
_BLOCK = 2**20

policy_name = click.option(
    "--policy", "name", metavar="NAME", help="Which policy of FILE: an AuditPipeline's name, or PIPELINE/OUTPUT."
)


def shown(path: Path) -> str:
    """The file's name in messages."""
    return "stdin" if path == STDIN else str(path)


def read_bytes(path: Path) -> bytes:
    """The whole file, or standard input."""
    return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()


def policy_of(path: Path, name: str | None = None) -> Source:
    """The one policy of a file, or the one of that name."""
    return load(read_bytes(path), shown(path), name)


def policies_of(paths: Sequence[Path]) -> list[Source]:
    """Every policy of the files; those of outputs do not count, which only narrow the one of their pipeline."""
    found = []
    for path in paths:
        sources = [source for source in read(read_bytes(path), shown(path)) if source.outer is None]
        if not sources:
            raise Invalid(shown(path), "no policy in it: expected a Policy (audit.k8s.io/v1) or an AuditPipeline")
        found += [usable(source) for source in sources]
    return found


@contextmanager
def lines_of(path: Path, progress: bool) -> Iterator[Iterator[bytes]]:
    """The lines of a log, unpacked if it is packed (gzip, xz, zstd), with a bar on a terminal if it is big."""
    from auditpipeline.dataplane.sources.packed import packing

    if path == STDIN:
        yield iter(sys.stdin.buffer)
        return
    with path.open("rb", buffering=0) as raw:
        kind = packing(raw) if path.is_file() else ""
        lines = _unpacked(raw, kind, path) if kind else iter(io.BufferedReader(raw))
        size = path.stat().st_size
        if progress and size >= _BIG and _terminal():
            with click.progressbar(length=size, label=path.name, file=sys.stderr) as bar:
                yield _stepping(lines, lambda: bar.update(raw.tell() - bar.pos))
        else:
            yield lines


def _terminal() -> bool:
    return sys.stderr.isatty()


def _unpacked(raw: io.FileIO, kind: str, path: Path) -> Iterator[bytes]:
    """The lines of a packed log; Invalid, behind the last one that can be read, if it is damaged."""
    from auditpipeline.dataplane.sources.packed import Unpacked

    content, offset, rest = Unpacked(raw, kind), 0, b""
    while data := content.at(offset, _BLOCK):
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
    if content.fault:
        raise Invalid(str(path), content.fault)


def _stepping(lines: Iterator[bytes], step: Callable[[], None]) -> Iterator[bytes]:
    """The lines, with a step now and then."""
    for number, line in enumerate(lines):
        if number % _STEP == 0:
            step()
        yield line
    step()


def table(head: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """An aligned table; the columns in `right` are aligned to the right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def human(size: int) -> str:
    """Bytes for people, with a sign where it is negative: `1.2 MiB`."""
    value, sign = float(abs(size)), "-" if size < 0 else ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{sign}{value:.0f} B" if unit == "B" else f"{sign}{value:.1f} {unit}"
        value /= 1024
    return f"{sign}{value:.1f} TiB"


def share(part: int, whole: int) -> str:
    """The part in percent; empty where there is nothing to be a part of."""
    return f"{100 * part / whole:.1f} %" if whole else ""
