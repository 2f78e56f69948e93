"""What the policy commands share: reading files and standard input, and tables for people."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from auditpipeline.core.errors import Invalid
from auditpipeline.core.policyfile import Source, load, read, usable

STDIN = Path("-")
FILE = click.Path(path_type=Path, allow_dash=True)
_BIG = 4 * 1024 * 1024
_STEP = 1000

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
    """The lines of a log, inflated where it is a .gz, with a bar on a terminal where it is big."""
    if path == STDIN:
        yield iter(sys.stdin.buffer)
        return
    with path.open("rb") as raw:
        lines: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
        size = path.stat().st_size
        if progress and size >= _BIG and _terminal():
            with click.progressbar(length=size, label=path.name, file=sys.stderr) as bar:
                yield _checked(lines, path, lambda: bar.update(raw.tell() - bar.pos))
        else:
            yield _checked(lines, path, lambda: None)


def _terminal() -> bool:
    return sys.stderr.isatty()


def _checked(lines: IO[bytes], path: Path, step: Callable[[], None]) -> Iterator[bytes]:
    """The lines, with a step now and then; a .gz that is broken is told by name."""
    try:
        for number, line in enumerate(lines):
            if number % _STEP == 0:
                step()
            yield line
        step()
    except (gzip.BadGzipFile, EOFError) as error:
        raise Invalid(str(path), f"this is no whole gzip file: {error}") from None


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
