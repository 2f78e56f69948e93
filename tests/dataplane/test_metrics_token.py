"""/metrics of the data plane behind a token, of which its configuration has the digest alone."""

from __future__ import annotations

from auditpipeline.core.bearer import NOBODY, hashed
from tests.dataplane.setting import Running, Setting

TOKEN, OTHER = "t0k3n-t0k3n-t0k3n", "other-other-other-other"


async def asked(plane: Running, shown: str = "") -> int:
    """The status of /metrics with this Authorization header."""
    headers = {"Authorization": shown} if shown else {}
    url = f"https://127.0.0.1:{plane.plane.ops_port}/metrics"
    async with plane.session.get(url, ssl=plane.setting.authority.client(None), headers=headers) as answer:
        assert TOKEN.encode() not in await answer.read()
        return answer.status


async def test_metrics_are_for_those_who_show_the_token(setting: Setting) -> None:
    """Health is for everybody, and the digest itself opens nothing."""
    async with setting.running(setting.config(metrics_token=hashed(TOKEN))) as plane:
        assert await asked(plane, f"Bearer {TOKEN}") == 200
        for shown in ("", "Bearer", f"Bearer {OTHER}", f"Basic {TOKEN}", TOKEN, f"Bearer {hashed(TOKEN)}"):
            assert await asked(plane, shown) == 401, shown
        assert (await plane.get("/healthz"))[0] == (await plane.get("/readyz"))[0] == 200


async def test_another_token_counts_with_the_configuration_that_has_it(setting: Setting) -> None:
    """And the former one no longer does; without one everybody may."""
    async with setting.running(setting.config()) as plane:
        assert await asked(plane) == 200
        await plane.in_force(setting.write(setting.config(metrics_token=hashed(TOKEN))))
        assert await asked(plane) == 401
        await plane.in_force(setting.write(setting.config(metrics_token=hashed(OTHER))))
        assert await asked(plane, f"Bearer {TOKEN}") == 401
        assert await asked(plane, f"Bearer {OTHER}") == 200


async def test_where_the_operator_has_no_token_nobody_may(setting: Setting) -> None:
    """Its file is empty or gone: that opens nothing."""
    async with setting.running(setting.config(metrics_token=NOBODY)) as plane:
        for shown in ("", "Bearer ", f"Bearer {NOBODY}"):
            assert await asked(plane, shown) == 401
