"""WSGI (PEP 3333) on the mesh's listener.

Decides: which thread runs which request. Never: buffers a body: input is read as the application reads it,
output waits for the caller. Invariant: the iterable's `close()` is called once, whatever happened.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from mesh._context import enter, facts_of
from mesh._pump import as_bytes
from mesh._wait import thread_queue

if TYPE_CHECKING:
    from mesh import _native

_log = logging.getLogger("mesh.wsgi")


class WsgiServer:
    """Threads that run a WSGI application."""

    def __init__(self, app: Any, inbox: _native.Inbox, threads: int) -> None:
        self._app = app
        self._inbox = inbox
        self._is_threaded = threads > 1
        self._threads = [
            threading.Thread(target=self._work, name=f"mesh-wsgi-{number}", daemon=True)
            for number in range(max(threads, 1))
        ]

    def open(self) -> None:
        """Takes requests from now on."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> None:
        """Waits for threads whose request is over; the inbox is closed already."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout)

    def _work(self) -> None:
        while (exchange := self._inbox.take()) is not None:
            copy_context().run(self._run, exchange)
            del exchange

    def _run(self, exchange: _native.Exchange) -> None:
        enter(exchange)
        call = _Call(exchange)
        try:
            call.run(self._app, environ_of(exchange, self._is_threaded))
        except OSError as error:
            call.fail()
            if not exchange.is_gone:
                _log.exception("the application failed: %s", error)
        except BaseException as error:
            call.fail()
            _log.exception("the application failed: %s", error)


class _Call:
    """One request's `start_response` and output."""

    def __init__(self, exchange: _native.Exchange) -> None:
        self._exchange = exchange
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._pipe: _native.BodyPipe | None = None

    def run(self, app: Any, environ: dict[str, Any]) -> None:
        output: Iterable[bytes] = app(environ, self.start_response)
        try:
            if isinstance(output, (list, tuple)) and self._pipe is None:
                self._answer_at_once(b"".join(map(as_bytes, output)))
                return
            for chunk in output:
                if chunk:
                    self.write(chunk)
            self._finish()
        finally:
            close = getattr(output, "close", None)
            if close is not None:
                close()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._pipe is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._head = (int(status[:3]), list(headers))
        return self.write

    def write(self, chunk: bytes) -> None:
        if self._pipe is None:
            self._begin()
        assert self._pipe is not None
        self._pipe.send(thread_queue(), as_bytes(chunk)).wait()

    def fail(self) -> None:
        """After the first byte the caller must see a reset; before, a 500 (the exchange's own)."""
        if self._pipe is not None:
            self._pipe.abort()
        else:
            try:
                self._exchange.respond(500, [("content-type", "text/plain")], b"Internal Server Error\n")
            except Exception:  # answered already
                _log.debug("no answer possible", exc_info=True)

    def _begin(self) -> None:
        status, headers = self._require_head()
        self._pipe = self._exchange.pipe(_length(headers))
        self._exchange.respond(status, headers, self._pipe)

    def _finish(self) -> None:
        if self._pipe is None:
            self._answer_at_once(b"")
        else:
            self._pipe.finish(thread_queue()).wait()

    def _answer_at_once(self, body: bytes) -> None:
        status, headers = self._require_head()
        self._exchange.respond(status, headers, body)

    def _require_head(self) -> tuple[int, list[tuple[str, str]]]:
        if self._head is None:
            raise AssertionError("the application returned before it called start_response")
        return self._head


class _Input(io.RawIOBase):
    """`wsgi.input`: the request body, read as the application reads."""

    def __init__(self, exchange: _native.Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._rest = b""
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and not self._is_over:
            chunk = self._exchange.read(thread_queue()).wait()
            self._is_over = chunk is None
            self._rest = chunk or b""
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def environ_of(exchange: _native.Exchange, is_threaded: bool) -> dict[str, Any]:
    """The environment of one request."""
    client = exchange.client or ("", 0)
    server = exchange.server or ("localhost", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(exchange.raw_path).decode("latin-1"),
        "RAW_URI": exchange.raw_path.encode().decode("latin-1"),
        "QUERY_STRING": exchange.query.encode().decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{exchange.http_version}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": exchange.scheme,
        "wsgi.input": io.BufferedReader(_Input(exchange), 64 * 1024),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": is_threaded,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **mesh_environ(exchange),
        **header_environ(exchange.headers()),
    }
    return environ


def mesh_environ(call: _native.Exchange | _native.Ticket) -> dict[str, Any]:
    """What the mesh tells an application about a call."""
    facts = {f"mesh.{name}": value for name, value in facts_of(call).items() if name != "remaining"}
    return {**facts, "mesh.context": call.context}


def header_environ(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by the names that WSGI gives them."""
    environ: dict[str, str] = {}
    for name, value in headers:
        if b"_" in name:  # it would read as another name, which a peer may not use
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        text = value.decode("latin-1")
        joint = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joint}{text}" if key in environ else text
    return environ


def _length(headers: list[tuple[str, str]]) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value)
    return None
