"""The key of hashes: read with each configuration; without it, values are masked, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from auditpipeline.core.config import FileOutput
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.dataplane.hash_key import read_key
from tests.dataplane.setting import EVERYTHING, Setting, event, until

SECRET = {
    "level": "Request",
    "objectRef": {"resource": "secrets"},
    "requestObject": {"stringData": {"a": "hunter2"}},
}


@pytest.mark.parametrize(
    ("key", "said"),
    [(None, "no key of hashes is configured"), ("missing", "cannot be read: "), (b"short", "has fewer than 32 bytes")],
)
def test_a_key_that_cannot_be_used_is_none(
    setting: Setting, tmp_path: Path, key: bytes | str | None, said: str
) -> None:
    """And it is said why; nothing is said if nobody asks for hashes."""
    path = tmp_path / "key"
    if isinstance(key, bytes):
        path.write_bytes(key)
    route = replace(setting.route(), redaction=Redaction(method="hash"))
    found = read_key(replace(setting.config(route), redaction_key_file=None if key is None else str(path)))
    assert found.key is None
    assert said in found.error
    assert read_key(replace(setting.config(setting.route()), redaction_key_file=str(path))) == (None, "")


@pytest.mark.parametrize("key", [b"k" * 32, None])
async def test_values_are_hashed_with_the_key_and_masked_without(
    setting: Setting, tmp_path: Path, key: bytes | None
) -> None:
    """Never left whole; the report says which."""
    target, path = tmp_path / "events.jsonl", tmp_path / "key"
    if key:
        path.write_bytes(key)
    route = setting.route(output=FileOutput(str(target)), policies=(EVERYTHING,))
    config = setting.config(replace(route, redaction=Redaction(method="hash")))
    async with setting.running(replace(config, redaction_key_file=str(path))) as plane:
        assert await plane.post([event(**SECRET)]) == 200
        await until(lambda: target.exists() and target.read_bytes().endswith(b"\n"))
        value = json.loads(target.read_text())["requestObject"]["stringData"]["a"]
        report = await plane.report()
        assert (value.startswith("REDACTED-"), report.unhashed == "") == (bool(key), bool(key))
        assert value != "hunter2"
        assert report.config_error == ""
