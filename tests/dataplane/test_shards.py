"""A gateway's configuration in several files: one that cannot be read costs the routes of no other."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from auditpipeline.core import config as contract
from auditpipeline.core import packing, report
from auditpipeline.core.config import Config, FileOutput, Route
from auditpipeline.core.errors import Invalid
from auditpipeline.core.packing import Shard
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.report import RouteReport
from auditpipeline.dataplane.source import ConfigFile
from tests import previous
from tests.dataplane.setting import Running, Setting, event, ids, lines_in, until


def route(setting: Setting, name: str, **fields: object) -> Route:
    """A route into a file of its own."""
    made = setting.route(name, FileOutput(str(setting.folder / f"{name}.jsonl")), uid=f"uid of {name}")
    return msgspec.structs.replace(made, **fields)


def head(setting: Setting, *routes: Route, **fields: object) -> Config:
    """The head of a gateway's configuration."""
    return msgspec.structs.replace(setting.config(*routes), plane="gateway", **fields)


def write(setting: Setting, number: int, *routes: Route, moving: tuple[str, ...] = ()) -> None:
    """Puts a shard in place."""
    put(setting, number, packing.compressed(packing.encode_shard(Shard(routes, moving))))


def put(setting: Setting, number: int, content: bytes) -> None:
    """Puts a file in a shard's place, as kubelet does."""
    scratch = setting.folder / "shard.new"
    scratch.write_bytes(content)
    scratch.rename(setting.folder / packing.shard_key(number))


async def in_force(plane: Running, wanted: dict[str, int]) -> None:
    """Waits until these routes are in force, from these files, as they were rendered."""

    async def same() -> bool:
        found = (await plane.report()).routes or ()
        return {entry.name: entry.shard for entry in found} == wanted

    await until(same)


async def test_all_files_are_one_configuration(setting: Setting) -> None:
    """The report says of each route which object it was made from, what it is, and where it was read."""
    first, second, third = (route(setting, name) for name in ("first", "second", "third"))
    write(setting, 1, second)
    write(setting, 31, third)
    digest = setting.write(head(setting, first, shards=1))
    async with setting.running() as plane:
        found = await plane.report()
        assert (found.config, found.config_error) == (digest, "")
        assert found.routes == tuple(
            RouteReport(made.name, made.uid, packing.route_digest(made), shard)
            for made, shard in ((first, 0), (second, 1), (third, 31))
        )
        events = [event() for _ in range(3)]
        assert await plane.post(events) == 200
        for name in ("first", "second", "third"):
            await arrived(setting, name, events)


def _lines(setting: Setting, name: str) -> list[dict[str, object]]:
    path = setting.folder / f"{name}.jsonl"
    return lines_in(path) if path.is_file() else []


async def arrived(setting: Setting, name: str, events: list[dict[str, object]]) -> None:
    """Waits until these events, and no others, are in a route's file."""
    await until(lambda: ids(_lines(setting, name)) == ids(events))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no gzip", "routes-1.json.gz: not gzip"),
        (gzip.compress(b"{"), "routes-1.json.gz: "),
        (gzip.compress(b'{"routes":[],"version":9}'), "routes-1.json.gz: version: 9 is not 1"),
        (gzip.compress(b'{"routes":[{"name":"x"}]}'), "routes-1.json.gz: routes[0]"),
        (gzip.compress(bytes(packing.SHARD_INFLATED + 1)), "routes-1.json.gz: larger than"),
    ],
    ids=["no gzip", "torn", "of another release", "not valid", "inflates without end"],
)
async def test_a_shard_that_cannot_be_used_costs_its_own_change_alone(
    setting: Setting, content: bytes, said: str
) -> None:
    """Its routes stay as they were, the report says why, others come and change meanwhile, and a good one mends it."""
    kept, other = route(setting, "kept"), route(setting, "other")
    write(setting, 1, kept)
    write(setting, 2, other)
    setting.write(head(setting, route(setting, "first"), shards=2))
    async with setting.running() as plane:
        put(setting, 1, content)

        async def complains() -> bool:
            return said in (await plane.report()).config_error

        await until(complains)
        write(setting, 2, other, route(setting, "new"))
        digest = setting.write(head(setting, route(setting, "first"), route(setting, "late"), shards=2))
        await in_force(plane, {"first": 0, "late": 0, "kept": 1, "other": 2, "new": 2})
        await plane.in_force(digest)
        assert await complains()
        events = [event()]
        assert await plane.post(events) == 200
        for name in ("kept", "new", "late"):
            await arrived(setting, name, events)
        write(setting, 1, kept, route(setting, "more"))
        await in_force(plane, {"first": 0, "late": 0, "kept": 1, "more": 1, "other": 2, "new": 2})
        assert (await plane.report()).config_error == ""


async def test_a_head_that_cannot_be_used_stops_no_shard(setting: Setting) -> None:
    """The routes of the head stay as they were."""
    setting.write(head(setting, route(setting, "first"), shards=1))
    write(setting, 1, route(setting, "second"))
    async with setting.running() as plane:
        setting.path.write_text("{")
        await until(lambda: plane.plane.config_error)
        write(setting, 1, route(setting, "second"), route(setting, "third"))
        await in_force(plane, {"first": 0, "second": 1, "third": 1})
        assert plane.plane.config_error


@pytest.mark.parametrize("broken", [b"no gzip", None], ids=["broken", "missing"])
async def test_routes_of_a_shard_that_is_not_known_at_a_start_keep_their_places(
    setting: Setting, broken: bytes | None
) -> None:
    """What was acknowledged before arrives when the shard can be read again; the others go on meanwhile."""
    second = route(setting, "second")
    setting.write(head(setting, route(setting, "first"), shards=1))
    write(setting, 1, second)
    shard = setting.folder / packing.shard_key(1)
    async with setting.running() as plane:
        folder = setting.folder / "second.jsonl"
        folder.mkdir()  # this output takes nothing
        events = [event() for _ in range(4)]
        assert await plane.post(events) == 200
        await until(lambda: len(_lines(setting, "first")) == 4)
    folder.rmdir()
    if broken is None:
        shard.unlink()
    else:
        put(setting, 1, broken)
    async with setting.running() as plane:
        assert packing.shard_key(1) in (await plane.report()).config_error
        more = [event()]
        assert await plane.post(more) == 200
        await until(lambda: len(_lines(setting, "first")) == 5)
        digest = setting.write(head(setting, route(setting, "first"), route(setting, "third"), shards=1))
        await plane.in_force(digest)
        write(setting, 1, second)
        await in_force(plane, {"first": 0, "third": 0, "second": 1})
        await until(lambda: ids(_lines(setting, "second"))[:4] == ids(events))
        assert (await plane.report()).events.dropped == 0


async def test_a_route_moves_from_one_file_to_another_without_losing_its_place(setting: Setting) -> None:
    """Whichever of the two files is seen first: it is in one of them at any time."""
    old = route(setting, "mover", max_events=1)
    new = route(setting, "mover", max_events=2)
    sent: list[str] = []
    setting.write(head(setting, route(setting, "first"), shards=2))
    write(setting, 1, old)
    write(setting, 2)
    async with setting.running() as plane:

        async def post() -> None:
            events = [event() for _ in range(5)]
            assert await plane.post(events) == 200
            sent.extend(ids(events))

        await post()
        write(setting, 1, old, moving=("mover",))
        await post()
        await in_force(plane, {"first": 0, "mover": 1})
        write(setting, 2, new)
        await post()
        await in_force(plane, {"first": 0, "mover": 2})
        write(setting, 1)
        await post()
        await in_force(plane, {"first": 0, "mover": 2})
        await until(lambda: ids(_lines(setting, "mover")) == sent)
        assert (await plane.report()).events.dropped == 0


@pytest.mark.parametrize(
    ("moving", "taken"), [((), 1), ((1,), 2), ((1, 2), 1)], ids=["the first", "the one that stays", "the first of two"]
)
def test_of_a_route_in_two_files_one_is_taken_for_sure(setting: Setting, moving: tuple[int, ...], taken: int) -> None:
    """The first that does not call it moving."""
    setting.write(head(setting, route(setting, "first"), shards=2))
    for number in (1, 2):
        made = route(setting, "twice", max_events=number)
        write(setting, number, made, moving=("twice",) if number in moving else ())
    found = ConfigFile(setting.path).changed()
    assert found
    (twice,) = [made for made in found.config.routes if made.name == "twice"]
    assert (twice.max_events, found.placed["twice"].shard) == (taken, taken)


def test_all_files_together_are_bounded(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are taken, what is too much is refused by itself."""
    big = Policy(rules=(Rule(level="Metadata", users=("x" * 1000,) * 3),))
    setting.write(head(setting, route(setting, "first"), shards=3))
    for number in (1, 2, 3):
        write(setting, number, route(setting, f"route-{number}", policies=(big,)))
    monkeypatch.setattr(contract, "MAX_CONFIG", 9000)
    found = ConfigFile(setting.path).changed()
    assert found
    assert [made.name for made in found.config.routes] == ["first", "route-1", "route-2"]
    assert found.error.startswith("routes-3.json.gz: larger than")


def test_a_route_that_this_release_does_not_know_all_of_has_the_same_digest(setting: Setting) -> None:
    """A field of a later release is a part of it."""
    made = route(setting, "first")
    later = msgspec.to_builtins(made) | {"later": {"a": [1, 2]}}
    fields = msgspec.to_builtins(head(setting, made)) | {"routes": [later]}
    body = msgspec.json.format(msgspec.json.encode(fields, order="deterministic"), indent=1)
    read = contract.decode(body)
    assert read.routes == (made,)
    digest = packing.route_digests(body, read.routes)["first"]
    assert digest != packing.route_digest(made)
    plain = contract.encode(head(setting, made))
    assert packing.route_digests(plain, read.routes)["first"] == packing.route_digest(made)


def release_before(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of code of that release; `sys.argv[1]` is the path."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", str(path)],
        capture_output=True,
        text=True,
        env=previous.environment(),
        check=False,
    )


def test_the_release_before_goes_on_with_the_head(setting: Setting, tmp_path: Path) -> None:
    """Compressed or not; and it reads a report that says which routes are in force."""
    made = head(setting, route(setting, "first"), shards=2, moving=("first",))
    packed = tmp_path / "packed" / "config.json.gz"
    packed.parent.mkdir()
    packed.write_bytes(packing.compressed(contract.encode(made)))
    setting.write(made)
    code = (
        "from pathlib import Path; from auditpipeline.dataplane.source import ConfigFile; "
        "print([route.name for route in ConfigFile(Path(sys.argv[1])).changed().config.routes])"
    )
    for path in (setting.path, packed.with_suffix("")):
        assert release_before(code, path).stdout == "['first']\n"
    said = report.Report("gateway", "gateway", "c", report.Events(), (), routes=(RouteReport("a", "u", "d", 1),))
    stored = tmp_path / "status"
    stored.write_bytes(report.encode(said))
    code = "from auditpipeline.core import report; print(report.decode(open(sys.argv[1], 'rb').read()).config)"
    assert release_before(code, stored).stdout == "c\n"


def test_a_report_of_the_release_before_says_nothing_of_routes() -> None:
    """Which is another thing than having none."""
    fields = msgspec.to_builtins(report.Report("gateway", "gateway", "c", report.Events(), ()))
    del fields["routes"]
    assert report.decode(msgspec.json.encode(fields)).routes is None


def test_the_release_before_refuses_policies_that_it_cannot_see(setting: Setting, tmp_path: Path) -> None:
    """Routes without their policies would take everything: it keeps what it runs."""
    made = setting.config(*(setting.route(f"r{number}", policies=(large(),)) for number in range(16)))
    body = packing.render(made)
    assert b'"uses"' in body
    path = tmp_path / "config.json"
    path.write_bytes(body)
    done = release_before("from auditpipeline.core import config; config.decode(open(sys.argv[1], 'rb').read())", path)
    assert done.returncode == 1
    assert "Invalid: " in done.stderr


def large(users: int = 1500) -> Policy:
    """A policy of some 100 KB."""
    return Policy(rules=tuple(Rule(level="Metadata", users=(f"user-{number:050}",)) for number in range(users)))


def test_a_policy_of_many_outputs_is_said_once_if_it_is_large(setting: Setting) -> None:
    """The same configuration is read, and every route has the same value; what is small stays as it was."""
    small = setting.config(setting.route(), setting.route("other"))
    assert packing.render(small) == contract.encode(small)
    outer = large()
    routes = [setting.route(f"r{number}", policies=(outer, large(number + 1))) for number in range(16)]
    made = setting.config(*routes)
    body = packing.render(made)
    assert len(body) < len(contract.encode(made)) / 8
    read = contract.decode(body)
    assert read == made
    assert len({id(route.policies[0]) for route in read.routes}) == 1


def test_what_the_release_before_could_be_given_stays_in_its_form(setting: Setting) -> None:
    """Up to 1 MiB, compressed from 512 KiB on."""
    made = setting.config(*(setting.route(f"r{number}", policies=(large(400),)) for number in range(13)))
    body = packing.render(made)
    assert packing.GZIP_FROM < len(body) <= packing.SEPARATE_BYTES
    assert body == contract.encode(made)
    assert list(packing.packed(body)) == ["config.json.gz"]


def test_a_pipeline_that_fits_into_no_secret_is_refused(setting: Setting) -> None:
    """With what to do."""
    noise = tuple(os.urandom(24).hex() for _ in range(40_000))
    made = setting.config(setting.route(policies=(Policy(rules=(Rule(level="Metadata", users=noise),)),)))
    with pytest.raises(Invalid, match="shorten the policies"):
        packing.render(made)


STDOUT = {"name": "a", "output": {"type": "stdout"}}


@pytest.mark.parametrize("change", [{"policies": None}, {"routes": [STDOUT | {"uses": [7]}]}, {"routes": [STDOUT]}])
def test_a_shared_form_that_refers_to_nothing_is_refused(setting: Setting, change: dict[str, object]) -> None:
    """A route without policies would take everything."""
    body = packing.render(setting.config(*(setting.route(f"r{n}", policies=(large(),)) for n in range(16))))
    fields = msgspec.json.decode(body) | change
    with pytest.raises(Invalid):
        contract.decode(msgspec.json.encode(fields))
