"""A running data plane: spool, routes and two listeners, and how a new configuration comes into force."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from auditpipeline import __version__
from auditpipeline.core import report as reports
from auditpipeline.core.bearer import holds
from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.config import Config
from auditpipeline.core.config import Route as RouteConfig
from auditpipeline.core.errors import Failed, Invalid, Retryable
from auditpipeline.core.report import Events, Report, RouteReport, SourceReport, Taken
from auditpipeline.dataplane import outputs
from auditpipeline.dataplane.conditions import Conditions
from auditpipeline.dataplane.descriptors import Places
from auditpipeline.dataplane.door import Door
from auditpipeline.dataplane.egress import Guard
from auditpipeline.dataplane.filter import Filter, Wanted
from auditpipeline.dataplane.hash_key import read_key
from auditpipeline.dataplane.intake import Intake
from auditpipeline.dataplane.leaving import Leaving
from auditpipeline.dataplane.listener import Listener
from auditpipeline.dataplane.log import Log, Seldom
from auditpipeline.dataplane.metrics import Metrics, Process
from auditpipeline.dataplane.route import Patience, Route
from auditpipeline.dataplane.server import audit_app
from auditpipeline.dataplane.source import Found
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.static import StaticFile
from auditpipeline.dataplane.store import Cursor, Figures
from auditpipeline.dataplane.supervise import Supervised
from auditpipeline.dataplane.tls import ServerTls
from auditpipeline.dataplane.token import Token

WATCH_SECONDS = 0.5
HURRY = 0.5
"""Seconds that a delivery has to end when its route is changed: a change shall be in force soon, and what was under way
comes again at worst."""


class Plane:
    """A running data plane. `audit_port` and `ops_port` are the bound ports, 0 before; `intake` takes events from
    other sources than the audit listener; `reading` is what keeps these at work, and `sources` has what each of them
    says of itself."""

    def __init__(
        self, found: Found, spool: Spool, ops: Door, log: Log, places: Places, patience: Patience | None = None
    ) -> None:
        config = found.config
        self.config = config
        self._conditions = Conditions(self._switched_off)
        self._key, self._unhashed = read_key(config)
        self.config_error = found.error
        self._waits_for = "its outputs are being started"
        self.reading: Supervised | None = None
        self._found = found
        self._spool = spool
        self._log = log
        self._patience = patience
        self._routes: dict[str, Route] = {}
        self._leaving = Leaving(spool)
        self._guard = Guard()
        self._guard.follow(config.egress)
        self._metrics = Metrics()
        self._static = StaticFile()
        self._epoch = secrets.token_hex(4)
        self._stopping = False
        self.sources: list[Callable[[], SourceReport]] = []
        self.intake = Intake(
            spool, _filter(config, self._key, self._conditions), config.max_body, self._metrics, Seldom(log)
        )
        self.intake.canaries.user = config.canary_user
        listen = config.listen
        token = Token(listen.audit_token_file) if listen.audit_token_file else None
        tls = ServerTls(listen.audit_tls, required=token is None)
        listener = Listener(lambda trust: audit_app(self.intake, token, trust), places)
        self._audit = Door("audit", listener, tls, log, token)
        self._ops = ops

    @property
    def audit_port(self) -> int:
        """The bound port of the audit listener."""
        return self._audit.listener.port

    @property
    def ops_port(self) -> int:
        """The bound port of the ops listener."""
        return self._ops.listener.port

    @property
    def healthy(self) -> bool:
        """False where a new start would help."""
        return self._spool.healthy

    @property
    def ready(self) -> bool:
        """Whether both listeners take connections and the plane is not about to end."""
        return bool(self.audit_port and self.ops_port) and not self._stopping and self.healthy

    def admits(self, authorization: str) -> bool:
        """Whether a request with this Authorization header may read the metrics."""
        return not self.config.metrics_token or holds(authorization, self.config.metrics_token)

    @property
    def waits_for(self) -> str:
        """Why it is not ready."""
        return "the process is about to end" if self._stopping else self.failure or self._waits_for

    async def start(self) -> None:
        """Starts the routes. Listeners follow with `refresh_tls`. Retryable if there is no room for the cursors of new
        outputs: those that have one are served meanwhile, and it may be called again."""
        wanted = [route for route in self.config.routes if route.name not in self._routes]
        cursors: dict[str, Cursor] = {}
        try:
            names = [route.name for route in self.config.routes]
            cursors = await self._spool.use([*names, *self._unknown(self._found)])
            self._waits_for = "its listeners are being opened"
        except Retryable as error:
            cursors, self._waits_for = self._spool.cursors, str(error)
            raise
        finally:
            self._start([route for route in wanted if route.name in cursors], cursors)

    async def refresh_tls(self) -> None:
        """Looks at the TLS files. AuditPipelineError where a port is taken."""
        await self._audit.refresh(self.config.listen.audit)
        await self._ops.refresh(self.config.listen.ops)

    async def apply(self, found: Found) -> None:
        """Puts a new configuration in force without losing an event; Invalid, and nothing changed, if it cannot be.

        The order matters: cursors of new routes exist before the filter lets their events in, and a route's cursor goes
        only when the filter no longer asks for it and the route has ended; in a gateway, when it has left (`leaving`).

        Whatever fails, every route runs, by the old configuration or by the new one: what may be refused for want of
        room comes before the first route ends, or after the last one was started. Calling it again finishes it.
        """
        new = found.config
        _check_same(self.config, new)
        key, unhashed = read_key(new)
        names, filter_ = [route.name for route in new.routes], _filter(new, key, self._conditions)
        await self._spool.limit(new.spool)
        cursors = await self._use([*self._routes, *names, *self._unknown(found)])
        await self._leaving.stop(names, HURRY)
        self.intake.follow(filter_, new.max_body)
        self.intake.canaries.user = new.canary_user
        self._guard.follow(new.egress)
        kept = {
            route.name for route in new.routes if self._runs(route) and (key == self._key or not route.taken.hashes)
        }
        self._key, self._unhashed = key, unhashed
        ending = [name for name in self._routes if name not in kept]
        gone = [self._routes[name].config for name in ending if name not in names and new.plane == "gateway"]
        # Those that are new need not wait for what ends.
        self._start([route for route in new.routes if route.name not in self._routes], cursors)
        await self._end(ending, HURRY)
        await self._succeed(found, gone)
        self.config_error = found.error
        self._log.info("the configuration is in force", digest=found.digest, routes=len(names), unchanged=len(kept))
        if found.error:
            self._log.error("a part of the configuration is not the newest", error=found.error)
        if unhashed:
            self._log.error("secrets are masked instead of hashed", error=unhashed)

    async def _succeed(self, found: Found, gone: list[RouteConfig]) -> None:
        """Starts what does not run yet. Cursors of outputs that are gone stay if there is no room to remove them."""
        names = [route.name for route in found.config.routes]
        cursors = self._spool.cursors
        try:
            cursors = await self._use([*names, *(route.name for route in gone), *self._unknown(found)])
        finally:
            self._start([route for route in found.config.routes if route.name not in self._routes], cursors)
            self._leave(gone, cursors)
            self._conditions.forget([*found.config.routes, *gone])
            self.config, self._found = found.config, found

    @property
    def failure(self) -> str:
        """Why only a new start can help; empty if all that has to run does."""
        if not self._spool.healthy:
            return "the spool is broken"
        ended = [name for name, route in self._running.items() if route.ended]
        return f"a route ended by itself: {', '.join(ended)}" if ended else ""

    async def watch(self) -> None:
        """Raises Failed as soon as something has ended that must run."""
        spool = asyncio.ensure_future(self._spool.failure())
        try:
            while not (spool.done() or self.failure):
                await asyncio.wait([spool], timeout=WATCH_SECONDS)
        finally:
            spool.cancel()
        raise Failed(f"the spool is broken: {spool.result()}" if spool.done() else self.failure)

    async def tidy(self) -> None:
        """What is to be done from time to time."""
        await self._leaving.tidy(HURRY)

    async def stop(self) -> None:
        """Answers what is under way, ends routes and listeners, closes the spool."""
        self._stopping = True
        try:
            await self._audit.listener.stop()
            await self._end(list(self._routes))
            await self._leaving.stop(list(self._leaving.routes), HURRY)
            await self._ops.listener.stop()
        finally:
            self.intake.close()
            await self._spool.close()

    async def status(self) -> bytes:
        """The report as JSON."""
        return reports.encode(self._report(await self._spool.figures()))

    async def exposition(self) -> bytes:
        """The metrics as text."""
        figures = await self._spool.figures()
        process = Process(
            routes={name: route.counts for name, route in self._running.items()},
            expiry={"audit": self._audit.tls.not_after, "ops": self._ops.tls.not_after},
            limit=self._spool.max_bytes,
            body_bytes=self.intake.room.used,
            commits=self._spool.commits.times,
            commit_seconds=self._spool.commits.seconds,
            source_restarts=self.reading.restarts if self.reading else 0,
            connections={"audit": self._audit.listener.counts(), "ops": self._ops.listener.counts()},
            journal_bytes=self._spool.journal.size,
        )
        return self._metrics.expose(self._report(figures), figures, process)

    def _report(self, figures: Figures) -> Report:
        dropped = sum(events for _, _, events in figures.lost)
        return Report(
            plane=self.config.plane,
            name=self.config.name,
            config=self._found.digest,
            events=Events(figures.received, figures.delivered, dropped),
            outputs=tuple(route.report(figures) for route in self._running.values()),
            config_error=self.config_error,
            spool_bytes=self._spool.size,
            dead_letters=figures.dead,
            certificate_not_after=self._audit.tls.not_after,
            version=__version__,
            static_policy=self._static.look(self.config.static_policy),
            canaries=self.intake.canaries.report(),
            taken=Taken(self._epoch, self.intake.taken),
            source_error=self.reading.error if self.reading else "",
            sources=tuple(source() for source in self.sources),
            routes=self._in_force() if self.config.plane == "gateway" else None,
            redacts=True,
            unhashed=self._unhashed,
            conditions=self._conditions.report(self.config.routes),
        )

    def _switched_off(self, condition: Condition) -> None:
        self._log.error(
            "a condition takes more than 1 ms an event and is switched off: events are kept",
            condition=condition.name,
            output=condition.output,
        )

    def _in_force(self) -> tuple[RouteReport, ...]:
        placed = self._found.placed
        return tuple(
            RouteReport(name, route.config.uid, *placed[name]) for name, route in self._routes.items() if name in placed
        )

    def _runs(self, route: RouteConfig) -> bool:
        running = self._routes.get(route.name)
        return running is not None and running.config == route

    @property
    def _running(self) -> dict[str, Route]:
        return {**self._routes, **self._leaving.routes}

    def _unknown(self, found: Found) -> Iterable[str]:
        """What may be routes of a part of the configuration that cannot be read: they keep their places."""
        return self._spool.cursors if found.partial else ()

    async def _use(self, names: list[str]) -> dict[str, Cursor]:
        return await self._spool.use([*names, *self._leaving.routes], self._leaving.ends)

    def _start(self, routes: Iterable[RouteConfig], cursors: dict[str, Cursor]) -> None:
        for config in routes:
            output = outputs.make(config.output, self._guard)
            route = Route(
                config, self._spool, output, self._log, self._patience, self._key, conditions=self._conditions
            )
            self._routes[config.name] = route
            route.start(cursors[config.name])

    def _leave(self, routes: Iterable[RouteConfig], cursors: dict[str, Cursor]) -> None:
        """Lets routes deliver what was stored while the filter asked for it: all of that is committed by now."""
        for config in routes:
            end = self._spool.end
            output = outputs.make(config.output, self._guard)
            route = Route(
                config,
                self._spool,
                output,
                self._log,
                self._patience,
                self._key,
                until=end,
                conditions=self._conditions,
            )
            route.start(cursors[config.name])
            self._leaving.add(route, end)

    async def _end(self, names: list[str], grace: float | None = None) -> None:
        await asyncio.gather(*(self._routes.pop(name).stop(grace) for name in names))


def _filter(config: Config, key: bytes | None, conditions: Conditions | None = None) -> Filter:
    routes = () if config.suspended else config.routes
    return Filter((Wanted(route.policies, route.taken, route.conditions) for route in routes), key, conditions)


def _check_same(old: Config, new: Config) -> None:
    """What cannot change while connections last."""
    if old.listen != new.listen:
        raise Invalid("listen", "changed: start the process again to apply this configuration")
    if old.spool.path != new.spool.path or old.plane != new.plane:
        raise Invalid("spool.path", "spool or plane changed: start the process again to apply this configuration")
