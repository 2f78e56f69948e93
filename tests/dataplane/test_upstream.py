"""What the data plane says for the controller's proofs: the static policy file, canaries, and events taken."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from auditpipeline.core.policy import Policy, Rule
from auditpipeline.dataplane.static import MOST, StaticFile
from tests.dataplane.setting import Setting, event, lines_in, until

USER = "system:serviceaccount:auditpipeline-system:auditpipeline-operator"
NOTHING = (Policy((Rule("None"),)),)


def canary(number: int, received: str = "2026-01-01T00:00:01.000000Z", **changed: Any) -> dict[str, Any]:
    found = event(
        requestURI=f"/auditpipeline-canary/here/{number}",
        stage="ResponseComplete",
        user={"username": USER},
        objectRef=None,
        requestReceivedTimestamp=received,
    )
    return found | changed


def test_the_policy_file_is_told_with_the_time_of_its_change(tmp_path: Path) -> None:
    """Also when an older file is moved into place, or when it was never there."""
    path, other, file = tmp_path / "policy.yaml", tmp_path / "older", StaticFile()
    assert file.look(None) is None
    missing = file.look(str(path))
    assert missing is not None
    assert missing.error == "No such file or directory"
    begun = time.time() - 1
    path.write_text("one")
    first = file.look(str(path))
    assert first is not None
    assert (first.text, first.error) == ("one", "")
    assert file.look(str(path)) is first
    other.write_text("two")
    os.utime(other, (1, 1))
    other.rename(path)
    second = file.look(str(path))
    assert second is not None
    assert second.text == "two"
    assert second.changed_at > begun


def test_a_file_that_is_no_text_is_told_as_such(tmp_path: Path) -> None:
    """Too large, or not UTF-8; nothing of it is passed on."""
    path, file = tmp_path / "policy.yaml", StaticFile()
    for content in (b"\xff", b"x" * (MOST + 1)):
        path.write_bytes(content)
        found = file.look(str(path))
        assert found is not None
        assert found.error
        assert found.text == ""


async def test_canaries_are_reported_and_not_delivered(setting: Setting) -> None:
    """The newest of the operator's own; one that is late does not take its place."""
    config = setting.config(setting.route(policies=NOTHING), canary_user=USER)
    async with setting.running(config) as plane:
        assert (await plane.report()).canaries == ()
        strange = canary(9, user={"username": "mallory"})
        assert await plane.post([event(), canary(1), strange]) == 200
        assert await plane.post([canary(2, "2026-01-01T00:00:31.000000Z")]) == 200
        assert await plane.post([canary(1)]) == 200
        report = await plane.report()
        (found,) = report.canaries
        assert (found.source, found.id, found.seen) == ("here", "2", 2)
        assert found.latency_seconds > 0
        assert report.events.received == 0


async def test_events_that_are_answered_with_200_are_counted(setting: Setting) -> None:
    """Wanted or not; a body that is refused is not, and a new process has another epoch."""
    async with setting.running(setting.config(setting.route(policies=NOTHING), max_body=5000)) as plane:
        assert await plane.post([event(), event()]) == 200
        assert await plane.post(b"x" * 6000) == 413
        before = (await plane.report()).taken
        assert before is not None
        assert before.events == 2
    async with setting.running(setting.config()) as plane:
        assert await plane.post([event()]) == 200
        after = (await plane.report()).taken
        assert after is not None
        assert after.events == 1
        assert after.epoch != before.epoch
        await until(lambda: setting.file.exists() and lines_in(setting.file))
