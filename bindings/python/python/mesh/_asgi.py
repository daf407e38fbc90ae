"""ASGI 3 (http and lifespan) on the mesh's listener.

Decides: nothing about requests. Never: buffers a body: `receive` reads as the application asks, `send` waits
for the caller. Invariant: each request runs in its own task and context, in which outgoing calls inherit the
caller's trace and deadline.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mesh._context import enter, facts_of
from mesh._wait import bridge, watch

if TYPE_CHECKING:
    from mesh import _native

_log = logging.getLogger("mesh.asgi")


class AsgiServer:
    """Runs an ASGI application in the running event loop."""

    def __init__(self, app: Any, inbox: _native.Inbox) -> None:
        self._app = app
        self.inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifespan = _Lifespan(app)

    async def start_up(self) -> None:
        """The application's own start; raises when it failed."""
        await self._lifespan.start_up()

    def open(self) -> None:
        """Takes requests from now on."""
        watch(self._loop, self.inbox.fileno(), self._accept)
        self._accept()

    def close(self) -> None:
        """Takes no more."""
        if hasattr(self._loop, "remove_reader"):
            self._loop.remove_reader(self.inbox.fileno())

    async def shut_down(self) -> None:
        """Ends what still runs, then the application."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lifespan.shut_down()

    def _accept(self) -> None:
        for exchange in self.inbox.drain():
            context = copy_context()
            context.run(enter, exchange)
            task = context.run(self._loop.create_task, self._run(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, exchange: _native.Exchange) -> None:
        call = _Call(exchange)
        try:
            await self._app(scope_of(exchange, self._lifespan.state), call.receive, call.send)
            if not call.is_complete:
                raise RuntimeError("the application returned before its response was complete")
        except asyncio.CancelledError:
            call.fail()
            raise
        except Exception as error:
            call.fail()
            if not (isinstance(error, OSError) and exchange.is_gone):
                _log.exception("the application failed: %s", error)
        finally:
            call.end()


class _Call:
    """`receive` and `send` of one request."""

    def __init__(self, exchange: _native.Exchange) -> None:
        self._exchange = exchange
        self._head: tuple[int, list[tuple[bytes, bytes]], bool] | None = None
        self._pipe: _native.BodyPipe | None = None
        self._reading: asyncio.Future[bytes | None] | None = None
        self._is_read = False
        self._is_body_sent = False
        self.is_complete = False

    async def receive(self) -> dict[str, Any]:
        waiter = bridge()
        if self._is_read:
            if not self.is_complete:
                await waiter.wait(self._exchange.gone(waiter.queue))
            return {"type": "http.disconnect"}
        if self._reading is None:
            self._reading = asyncio.ensure_future(waiter.wait(self._exchange.read(waiter.queue)))
        try:
            # Frameworks cancel `receive` to ask for a disconnect; the piece then waits for the next one.
            chunk = await asyncio.shield(self._reading)
        except OSError:
            self._is_read = True
            return {"type": "http.disconnect"}
        self._reading = None
        self._is_read = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            self._head = (message["status"], headers, message.get("trailers", False))
        elif kind == "http.response.body" and self._head is not None and not self._is_body_sent:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.trailers" and self._is_body_sent and self._pipe is not None:
            await self._finish([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def end(self) -> None:
        """The application has returned: nobody receives any more."""
        if self._reading is not None:
            self._reading.cancel()

    def fail(self) -> None:
        """After the first byte the caller must see a reset; before, a 500."""
        if self._pipe is not None:
            self._pipe.abort()
        elif not self.is_complete:
            self.is_complete = True
            self._exchange.respond(500, [("content-type", "text/plain")], b"Internal Server Error\n")

    async def _send_body(self, body: bytes, has_more: bool) -> None:
        assert self._head is not None
        status, headers, has_trailers = self._head
        self._is_body_sent = not has_more
        if self._pipe is None:
            if not has_more and not has_trailers:
                self.is_complete = True
                self._exchange.respond(status, headers, bytes(body))
                return
            self._pipe = self._exchange.pipe(_length(headers))
            self._exchange.respond(status, headers, self._pipe)
        if body:
            waiter = bridge()
            await waiter.wait(self._pipe.send(waiter.queue, bytes(body)))
        if not has_more and not has_trailers:
            await self._finish(None)

    async def _finish(self, trailers: list[tuple[bytes, bytes]] | None) -> None:
        assert self._pipe is not None
        self.is_complete = True
        waiter = bridge()
        await waiter.wait(self._pipe.finish(waiter.queue, trailers))


class _Lifespan:
    """The application's start and end; an application without lifespan is served as it is."""

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: str | None = None
        self._is_supported = False
        self._task: asyncio.Task[None] | None = None

    async def start_up(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._inbox.put({"type": "lifespan.startup"})
        await self._started.wait()
        if self._failure is not None:
            raise RuntimeError(f"the application did not start: {self._failure}")

    async def shut_down(self) -> None:
        if self._task is None or self._task.done() or not self._is_supported:
            return
        await self._inbox.put({"type": "lifespan.shutdown"})
        await self._ended.wait()
        await self._task

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:
            if self._is_supported:
                _log.exception("the application's lifespan failed: %s", error)
            else:
                _log.debug("the application has no lifespan: %s", error)
        finally:
            self._started.set()
            self._ended.set()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._is_supported = True
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self._failure = message.get("message", "") or "no reason given"
            self._started.set()
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            self._ended.set()


def scope_of(exchange: _native.Exchange, state: dict[str, Any]) -> dict[str, Any]:
    """The connection scope of one request."""
    raw_path = exchange.raw_path
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": exchange.http_version,
        "method": exchange.method,
        "scheme": exchange.scheme,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": exchange.query.encode(),
        "root_path": "",
        "headers": exchange.headers(),
        "client": exchange.client,
        "server": exchange.server,
        "state": state.copy(),
        "extensions": {
            "http.response.trailers": {},
            "mesh": facts_of(exchange),
        },
    }


def _length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value)
    return None
