"""YAML documents that know where each of their fields stands, so that a message can name file, line and column.

Text in, values out; reading files is for others. A path is written as in messages: `spec.policy.rules[2].users[0]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from auditpipeline.core.errors import Invalid

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_DEPTH = 100
_MERGE = "tag:yaml.org,2002:merge"


class Position(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Document(NamedTuple):
    """One YAML document."""

    file: str
    value: Any
    node: yaml.Node

    def position(self, path: str) -> Position:
        """Where the field stands; where it does not stand at all, the nearest one around it."""
        node, mark = self.node, self.node.start_mark
        for index, key in _STEP.findall(path):
            found = _item(node, int(index)) if index else _field(node, key)
            if found is None:
                break
            mark, node = found
        return _position(mark)

    def repeated(self) -> Iterator[tuple[str, Position]]:
        """The fields that stand twice in one mapping; YAML keeps the last one."""
        yield from _repeated(self.node, "", set())


def documents(text: bytes, file: str) -> list[Document]:
    """The documents of a file that are not empty; Invalid with file, line and column if it is not valid YAML."""
    try:
        _check_depth(text.decode(), file)
        loader = _Loader(text.decode())
        found = []
        while loader.check_node():
            node = loader.get_node()
            found.append(Document(file, loader.construct_document(node), node))
        return [document for document in found if document.value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ": ".join(part for part in (error.context, error.problem) if part)
        raise Invalid(_place(file, mark), f"this is not valid YAML: {said}") from None
    except yaml.reader.ReaderError as error:
        raise Invalid(file, f"this is not valid YAML: {error.reason} (character {error.position})") from None
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        column = error.start - (text.rfind(b"\n", 0, error.start) + 1) + 1
        raise Invalid(f"{file}:{line}:{column}", "this is no UTF-8 text") from None
    except (ValueError, TypeError, AttributeError) as error:  # a value that its own YAML tag does not fit
        raise Invalid(file, f"this is not valid YAML: {error}") from None


def _check_depth(text: str, file: str) -> None:
    """Refuse what is nested deeper than any policy: composing it would end the process, not raise."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise Invalid(_place(file, event.start_mark), "this is nested too deeply")


def _place(file: str, mark: Any) -> str:
    return file if mark is None else "{}:{}:{}".format(file, *_position(mark))


def _position(mark: yaml.Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _field(node: yaml.Node, key: str) -> tuple[yaml.Mark, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in reversed(node.value):
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            return name.start_mark, value
    return None


def _item(node: yaml.Node, index: int) -> tuple[yaml.Mark, yaml.Node] | None:
    if not isinstance(node, yaml.SequenceNode) or index >= len(node.value):
        return None
    return node.value[index].start_mark, node.value[index]


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[tuple[str, Position]]:
    if id(node) in seen:  # an alias, or one that holds itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, f"{path}[{index}]", seen)
    if isinstance(node, yaml.MappingNode):
        names = set()
        for name, value in node.value:
            inner = f"{path}.{name.value}" if path else str(name.value)
            if isinstance(name, yaml.ScalarNode) and name.value in names and name.tag != _MERGE:
                yield inner, _position(name.start_mark)
            names.add(name.value if isinstance(name, yaml.ScalarNode) else id(name))
            yield from _repeated(value, inner, seen)
