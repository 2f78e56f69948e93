"""docs/outputs.md is true: its example runs and keeps the contract, and what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from auditpipeline.core import errors
from auditpipeline.core.config import FileOutput, HttpOutput, Route, StdoutOutput
from auditpipeline.core.destination import Fsync
from auditpipeline.core.report import OutputReport
from auditpipeline.dataplane.outputs import Output
from auditpipeline.dataplane.route import Patience
from tests.dataplane.output_contract import OutputContract, Subject

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "outputs.md").read_text()


def example() -> dict[str, Any]:
    """The page's code, in its order, as one module."""
    found: dict[str, Any] = {"__name__": "docs.outputs"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/outputs.md", "exec"), found)  # noqa: S102
    return found


EXAMPLE = example()


class TestExample(OutputContract):
    """The output that the page walks through keeps the contract."""

    @pytest.fixture
    def subject(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
        """As the page makes it."""
        subject: Subject = EXAMPLE["FolderSubject"](tmp_path, monkeypatch)
        return subject


def rows(heading: str) -> dict[str, str]:
    """The first table that begins with this cell: code spans of its first column, and the whole row."""
    _, table = PAGE.split(f"| {heading} |", 1)
    lines = [line for line in table.split("\n\n", 1)[0].splitlines()[2:] if line.startswith("|")]
    return {name: line for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_the_methods_are_those_of_the_contract() -> None:
    """Two."""
    assert rows("method").keys() == {name for name in vars(Output) if not name.startswith("_")}


def test_the_outputs_are_those_that_a_route_may_have() -> None:
    """Each says what "arrived" means, in its module too."""
    tags = {kind.__struct_config__.tag for kind in get_args(get_type_hints(Route)["output"])}
    assert rows("output").keys() == tags
    for tag in tags:
        module = ROOT / "operator" / "auditpipeline" / "dataplane" / "outputs" / f"{tag}.py"
        assert "Arrived means: " in module.read_text()
    assert EXAMPLE["FolderOutput"].__struct_config__.tag not in tags


def test_the_exceptions_are_those_of_core() -> None:
    """And the route's own figures are the page's."""
    raised = rows("exception")
    assert raised.keys() == {"Retryable", "Permanent", "TooLarge", "CancelledError"}
    assert issubclass(errors.TooLarge, errors.Permanent)
    patience = Patience()
    assert (patience.answer, patience.tries, patience.stop) == (30, 4, 3)
    assert "has four tries" in raised["Retryable"]
    assert "512 characters" in (OutputReport.__doc__ or "")


def test_a_batch_is_as_large_as_the_page_says() -> None:
    """By the kind of output."""
    sizes = [
        Route("a", (), output).batch_events for output in (HttpOutput("https://a"), FileOutput("/a"), StdoutOutput())
    ]
    assert "400 for `http`, 10000 for the others" in PAGE
    assert sizes == [400, 10000, 10000]


def test_the_tests_are_those_that_are_inherited() -> None:
    """None is missing from the page."""
    assert list(rows("test")) == [name for name in vars(OutputContract) if name.startswith("test_")]


def test_every_way_to_sync_is_explained() -> None:
    """With what it costs."""
    assert tuple(rows("`fsync`")) == get_args(Fsync)


def test_the_files_and_links_are_there() -> None:
    """What somebody has to edit, and what the page refers to."""
    assert all((ROOT / name).exists() for name in rows("file"))
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / link).exists()
    named: list[str] = re.findall(r"`((?:tests|operator|core|dataplane|outputs)/[\w./]+\.py)`", PAGE)
    homes = [ROOT, ROOT / "operator" / "auditpipeline", ROOT / "operator" / "auditpipeline" / "dataplane"]
    assert [name for name in named if not any((home / name).exists() for home in homes)] == []
