"""Other people's servers around applications behind the middlewares: uvicorn, hypercorn, wsgiref."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import hypercorn
import mesh
import uvicorn
from conftest import free_port
from hypercorn.asyncio import serve as hypercorn_serve

Pairs = Sequence[tuple[str, str]]
FRIENDS_ONLY = """
policy:
  access: { rules: [ { name: friends, action: allow, principals: ["spiffe://test.example/friend"] } ] }
"""
LISTENER = "version: 1\nnode: { service: app }\nlisteners: [ { name: inbound } ]\n"


class Answer(NamedTuple):
    """What a client got."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Serving(NamedTuple):
    """An application under a server, behind the check of `mesh`."""

    port: int
    mesh: mesh.Mesh

    def ask(self, target: str, method: str = "GET", headers: Pairs = (), body: Any = None) -> Answer:
        """One request on a connection of its own, with the target as it stands."""
        return ask(self.port, target, method, headers, body)

    def counted(self, name: str, *labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        return counted(self.mesh.metrics_text(), name, *labels)

    def comes_to(self, value: float, name: str, *labels: str) -> None:
        """Waits until the sum is this: a server ends a request after its client has all of the response."""
        eventually(lambda: self.counted(name, *labels) == value, lambda: self.counted(name, *labels))


def ask(port: int, target: str, method: str = "GET", headers: Pairs = (), body: Any = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        is_named = any(name == "Host" for name, _ in headers)
        connection.putrequest(method, target, skip_host=is_named, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def counted(page: str, name: str, *labels: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def eventually(is_so: Callable[[], Any], message: Any = "it never came to be") -> None:
    """A server closes a response after its client has all of it."""
    ends = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ends, message() if callable(message) else message
        time.sleep(0.005)


@contextmanager
def under_uvicorn(app: Any, port: int, **options: Any) -> Iterator[None]:
    config = uvicorn.Config(app, port=port, log_level="warning", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def under_hypercorn(app: Any, port: int, **options: Any) -> Iterator[None]:
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "ERROR"
    for name, value in options.items():
        setattr(config, name, value)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        loop.run_until_complete(hypercorn_serve(app, config, shutdown_trigger=stop.wait))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        eventually(lambda: _answers(port))
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()


class _Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def under_wsgiref(app: Any, port: int) -> Iterator[None]:
    server = make_server("127.0.0.1", port, app, server_class=_Threading, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


def _answers(port: int) -> bool:
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
    except OSError:
        return False
    return True


@contextmanager
def own_server(server: str, apps: tuple[Any, Any], text: str, **options: Any) -> Iterator[Serving]:
    """`apps`: for WSGI and for ASGI. `text` comes after the listener, or is a whole document."""
    port = free_port()
    config = text if text.startswith("version:") else LISTENER + text
    with mesh.Mesh.from_yaml(config) as m:
        if server == "wsgiref":
            with under_wsgiref(mesh.WsgiMiddleware(apps[0], m, **options), port):
                yield Serving(port, m)
        else:
            under = under_uvicorn if server == "uvicorn" else under_hypercorn
            with under(mesh.AsgiMiddleware(_only_requests(apps[1]), m, **options), port):
                yield Serving(port, m)


def _only_requests(app: Any) -> Any:
    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await app(scope, receive, send)

    return without_lifespan


def environment() -> dict[str, str]:
    """For servers in a process of their own."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}
