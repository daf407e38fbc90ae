"""Runs an application on the mesh's own listener.

Decides: when to stop, and how: drain, then close. Never: decides about a request; the listener admitted it.
Signals: on the main thread, Ctrl-C and SIGTERM stop it; a second Ctrl-C stops it at once.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypedDict

from mesh import _native
from mesh._asgi import AsgiServer
from mesh._errors import ClosedError
from mesh._wait import bridge, thread_queue
from mesh._wsgi import WsgiServer

if TYPE_CHECKING:
    from mesh._mesh import Kind, Mesh


class ServeOptions(TypedDict, total=False):
    """How to serve."""

    kind: Kind
    """"auto" looks at the application: an async callable is ASGI."""
    threads: int
    """Threads that run a WSGI application (default 8)."""
    backlog: int
    """Requests that may wait for the application; one more is answered 503 (default 1024)."""
    grace: float
    """Seconds a drain may take (default 5)."""
    on_ready: Callable[[str], None]
    """Called with "host:port" once the listener is bound."""


class _Stop(BaseException):
    """SIGTERM, raised on the main thread."""


def serve_blocking(mesh: Mesh, app: Any, listener: str, options: ServeOptions) -> None:
    """Serves until stopped, then drains and closes the mesh."""
    if is_asgi(app, options.get("kind", "auto")):
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve_until_signalled(mesh, app, listener, options))
        return
    native = mesh._started(False)
    inbox = _native.Inbox(options.get("backlog", _BACKLOG))
    server = WsgiServer(app, inbox, options.get("threads", _THREADS))
    try:
        with _sigterm_stops():
            try:
                listening = native.listen(listener, inbox)
                server.open()
                _announce(listening, options)
                listening.closed(thread_queue()).wait()
            except (KeyboardInterrupt, _Stop):
                _drain_blocking(native, inbox, options.get("grace", _GRACE))
            except ClosedError:
                if not mesh._is_closed:
                    raise
    finally:
        inbox.close()
        server.join(1.0)
        mesh.close(timeout=1.0)


async def serve_async(mesh: Mesh, app: Any, listener: str, options: ServeOptions) -> None:
    """Serves in the running loop until cancelled or closed, then drains and closes the mesh."""
    await _serve(mesh, _server(app, options), listener, (options, asyncio.Event()))


async def _serve_until_signalled(mesh: Mesh, app: Any, listener: str, options: ServeOptions) -> None:
    stop = asyncio.Event()
    with _loop_signals(stop):
        await _serve(mesh, _server(app, options), listener, (options, stop))


def _server(app: Any, options: ServeOptions) -> AsgiServer | _ThreadedServer:
    inbox = _native.Inbox(options.get("backlog", _BACKLOG))
    if is_asgi(app, options.get("kind", "auto")):
        return AsgiServer(app, inbox)
    return _ThreadedServer(WsgiServer(app, inbox, options.get("threads", _THREADS)), inbox)


async def _serve(
    mesh: Mesh,
    server: AsgiServer | _ThreadedServer,
    listener: str,
    how: tuple[ServeOptions, asyncio.Event],
) -> None:
    options, stop = how
    native = mesh._started(False)
    try:
        await server.start_up()
        listening = native.listen(listener, server.inbox)
        server.open()
        try:
            _announce(listening, options)
            await _first_of(listening, stop)
        finally:
            if not mesh._is_closed:
                stop.clear()
                await _drain_async(native, server.inbox, (options.get("grace", _GRACE), stop))
    finally:
        server.close()
        server.inbox.close()
        await server.shut_down()
        await asyncio.shield(asyncio.to_thread(mesh.close, 1.0))


async def _first_of(listening: _native.Listening, stop: asyncio.Event) -> None:
    """Returns when the listener has ended, whoever ended it, or when `stop` is set."""
    waiter = bridge()
    ended = asyncio.ensure_future(waiter.wait(listening.closed(waiter.queue)))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        stopped.cancel()
        await asyncio.gather(ended, stopped, return_exceptions=True)


class _ThreadedServer:
    """A WSGI application beside a running event loop."""

    def __init__(self, server: WsgiServer, inbox: _native.Inbox) -> None:
        self._server = server
        self.inbox = inbox

    async def start_up(self) -> None:
        """WSGI has no start of its own."""

    def open(self) -> None:
        self._server.open()

    def close(self) -> None:
        """The threads end when the inbox is closed."""

    async def shut_down(self) -> None:
        await asyncio.to_thread(self._server.join, 1.0)


def is_asgi(app: Any, kind: Kind) -> bool:
    """Whether `app` is to be called the ASGI way."""
    if kind != "auto":
        return kind == "asgi"
    call = getattr(app, "__call__", None)  # noqa: B004 - the method, to see whether it is a coroutine
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)


def _announce(listening: _native.Listening, options: ServeOptions) -> None:
    host, port = listening.address
    on_ready = options.get("on_ready")
    if on_ready is not None:
        on_ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _drain_blocking(native: _native.Mesh, inbox: _native.Inbox, grace: float) -> None:
    """Ends when nothing is in flight, when the grace is over, or at a second Ctrl-C."""
    queue = _native.Queue()
    native.drain(queue, grace)
    pause = threading.Event()
    with suppress(KeyboardInterrupt, _Stop):
        left = grace
        while left > 0 and inbox.in_flight:
            pause.wait(_POLL)
            left -= _POLL
    native.drain(queue, 0.0).wait()


async def _drain_async(
    native: _native.Mesh, inbox: _native.Inbox, until: tuple[float, asyncio.Event]
) -> None:
    left, again = until
    waiter = bridge()
    draining = native.drain(waiter.queue, left)
    while left > 0 and inbox.in_flight and not again.is_set():
        await asyncio.sleep(_POLL)
        left -= _POLL
    draining.cancel()
    await waiter.wait(native.drain(waiter.queue, 0.0))


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """SIGTERM ends the server like Ctrl-C, unless the application has its own handler."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Stop

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _loop_signals(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop` while the server runs on the main thread."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    caught = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        caught.append(signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, before)


# How often a drain looks whether it may end early, in seconds.
_POLL = 0.02
_THREADS = 8
_BACKLOG = 1024
_GRACE = 5.0
