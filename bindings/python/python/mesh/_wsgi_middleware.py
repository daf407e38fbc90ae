"""The inbound check around a WSGI application, under whatever server.

Decides: nothing about requests. Never: reads a body before a check wants to know it; what was read, the
application reads again. Invariant: the application is called only after the mesh admitted the request, with
the path and the headers that were judged; its iterable's `close()` is called once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from mesh._context import enter
from mesh._errors import ClosedError, UsageError
from mesh._native import Ticket, Wanted
from mesh._own_server import NOT_OURS, SAFE, Address, Check, Config, Reply, is_under, refusal_of, reply_of
from mesh._wait import thread_queue
from mesh._wsgi import header_environ, mesh_environ

Environ = dict[str, Any]
Pairs = list[tuple[str, str]]
PeerCertificates = Callable[[Environ], Sequence[bytes] | None]


class WsgiMiddleware:
    """Admits the requests of a server of your own: access rules, end users, limits, checks, telemetry.

    `app.wsgi_app = mesh.WsgiMiddleware(app.wsgi_app, m, listener="inbound")`. The outermost layer: what
    routes must see the path that was judged. Starts nothing before the first request, and may be forked.
    `peer_certificates` says which certificates (DER, leaf first) the client proved to own in a TLS handshake.
    """

    def __init__(
        self,
        app: Any,
        mesh: Config,
        listener: str = "inbound",
        *,
        peer_certificates: PeerCertificates | None = None,
    ) -> None:
        self._app = app
        self._check = Check(mesh, listener)
        self._peer_certificates = peer_certificates or _no_certificates

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        begun, read = self._begin(environ)
        if isinstance(begun, Reply):
            return _send_reply(start_response, begun)
        call = _Response(begun, start_response, is_head=environ["REQUEST_METHOD"] == "HEAD")
        source = _Input(environ["wsgi.input"], read, call)
        judged = _judged(environ, begun, source)
        if judged is None:
            return call.run(lambda _, start: _send_reply(start, NOT_OURS), environ)
        return call.run(self._app, judged)

    def _begin(self, environ: Environ) -> tuple[Ticket | Reply, bytes]:
        """The ticket or the answer, and what was read of the body."""
        method, read = environ["REQUEST_METHOD"], b""
        try:
            check = self._check.native()
            head = (
                method,
                _target_of(environ),
                environ["SERVER_PROTOCOL"].partition("/")[2],
                _headers(environ),
            )
            chain = [bytes(certificate) for certificate in self._peer_certificates(environ) or ()]
            client = _address(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"))
            server = _address(environ.get("SERVER_NAME"), environ.get("SERVER_PORT"))
            queue, origin = thread_queue(), (client, server, chain)
            begun = check.begin(queue, head, origin, _has_body(environ)).wait()
            if isinstance(begun, Wanted):
                beginning = _beginning_of(environ, begun.limit)
                read = beginning[0]
                begun = check.give(queue, begun, beginning).wait()
        except (ClosedError, UsageError) as error:
            return refusal_of(error), read
        return (begun if isinstance(begun, Ticket) else reply_of(begun, method)), read


class _Response:
    """An admitted request: `start_response`, and what the application answers."""

    def __init__(self, ticket: Ticket, start_response: Any, *, is_head: bool) -> None:
        self._ticket: Ticket | None = ticket
        self._start = start_response
        self._is_head = is_head
        self._head: tuple[str, Pairs] | None = None
        self._write: Callable[[bytes], Any] | None = None  # not every server has one
        self.is_head_sent = False
        self._is_answered = False
        self._sent = 0
        self.read = 0
        # The application, its iterable and its `close` run in one context, whoever calls them.
        self.context = copy_context()
        self.context.run(enter, ticket)

    def run(self, app: Any, environ: Environ) -> Iterable[bytes]:
        """The application's answer."""
        try:
            output = self.context.run(app, environ, self.start_response)
            chunks: Iterator[bytes] = self.context.run(iter, output)
        except BaseException as error:
            self.fail(error)
            raise
        # Of a list with one piece, a server knows the length.
        is_list = isinstance(output, (list, tuple))
        return _List(self, output, chunks) if is_list else _Output(self, output, chunks)

    def start_response(self, status: str, headers: Pairs, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.is_head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._head = (status, list(headers))
        return self.write

    def write(self, chunk: bytes) -> None:
        self.send_head()
        assert self._write is not None
        self._write(chunk)
        self.count(len(chunk))

    def send_head(self) -> None:
        """Once; with the first byte, because until then the application may think better of it."""
        if self.is_head_sent:
            return
        if self._head is None:
            raise AssertionError("the application answered before it called start_response")
        status, headers = self._head
        if self._ticket is not None:
            code, answered = self._ticket.answer(int(status[:3]), headers)
            self._is_answered = True
            status = status if code == int(status[:3]) else _status_text(code)
            headers = _sendable(answered, [name.lower() for name, _ in headers])
        self.is_head_sent = True
        self._write = self._start(status, headers)

    def count(self, length: int) -> None:
        """So many bytes were sent."""
        self._sent += 0 if self._is_head else length

    def end(self) -> None:
        """The response was sent."""
        ticket = self._take()
        if ticket is not None:
            ticket.end(self._sent)

    def give_up(self) -> None:
        """The server stopped asking: its client went away."""
        ticket = self._take()
        if ticket is not None:
            ticket.give_up()

    def fail(self, error: BaseException) -> None:
        """The application failed; what the client sees of it is the server's to decide."""
        ticket = self._take()
        if ticket is None:
            return
        if not self._is_answered:
            ticket.answer(500, [])  # as the server will
        ticket.fail(self._sent, f"{type(error).__name__}: {error}")

    def _take(self) -> Ticket | None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.count_request(self.read)
        return ticket


class _Output:
    """What the application yields. The request ends when the server closes it."""

    def __init__(self, response: _Response, output: Any, chunks: Iterator[bytes]) -> None:
        self._response = response
        self._output = output
        self._chunks = chunks
        self._under_way = 0
        self._is_complete = False
        self._is_closed = False

    def __iter__(self) -> _Output:
        return self

    def __next__(self) -> bytes:
        self._response.count(self._under_way)
        self._under_way = 0
        try:
            chunk = self._response.context.run(next, self._chunks, _END)
            # An empty piece sends no head, and a server takes no piece before it.
            while not chunk and not self._response.is_head_sent:
                chunk = self._response.context.run(next, self._chunks, _END)
            self._response.send_head()
        except BaseException as error:
            self._response.fail(error)
            raise
        if chunk is _END:
            self._is_complete = True
            raise StopIteration
        self._under_way = len(chunk)
        return chunk

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close = getattr(self._output, "close", None)
            if close is not None:
                self._response.context.run(close)
        finally:
            if self._is_complete:
                self._response.end()
            else:
                self._response.give_up()


class _List(_Output):
    """The same of a list."""

    def __len__(self) -> int:
        return len(self._output)


class _Input(io.RawIOBase):
    """`wsgi.input`: first what was read already, then the rest; counted as the application reads it."""

    def __init__(self, source: Any, read: bytes, response: _Response) -> None:
        super().__init__()
        self._source = source
        self._begun = read
        self._response = response

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self._counted(self._take(len(self._begun)) + self._source.read())
        begun = self._take(size)
        rest = self._source.read(size - len(begun)) if len(begun) < size else b""
        return self._counted(begun + rest)

    def read1(self, size: int = -1) -> bytes:
        begun = self._take(len(self._begun) if size < 0 else size)
        return self._counted(begun or self._source.read1(size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1) -> bytes:
        limit = -1 if size is None else size
        end = self._begun.find(b"\n") + 1 or len(self._begun)
        begun = self._take(end if limit < 0 else min(end, limit))
        if begun.endswith(b"\n") or len(begun) == limit:
            return self._counted(begun)
        rest = self._source.readline() if limit < 0 else self._source.readline(limit - len(begun))
        return self._counted(begun + rest)

    def _take(self, size: int) -> bytes:
        taken, self._begun = self._begun[:size], self._begun[size:]
        return taken

    def _counted(self, data: bytes) -> bytes:
        self._response.read += len(data)
        return data


def _has_body(environ: Environ) -> bool:
    """Whether there may be one. A request of HTTP/1 says so in its head; later versions need not."""
    is_told = environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ
    return is_told or bool(environ.get("wsgi.input_terminated")) or _is_later(environ["SERVER_PROTOCOL"])


def _is_later(protocol: str) -> bool:
    """Than HTTP/1."""
    return protocol.partition("/")[2].partition(".")[0] not in ("0", "1")


def _beginning_of(environ: Environ, limit: int) -> tuple[bytes, bool]:
    """At most one byte more than `limit` of the body, and whether there is more."""
    length, source = environ.get("CONTENT_LENGTH") or "", environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        wanted = limit + 1
    elif length.isdecimal() and "HTTP_TRANSFER_ENCODING" not in environ:
        wanted = min(limit + 1, int(length))
    elif isinstance(source, io.BytesIO):  # of a server that has all of it
        wanted = limit + 1
    else:
        return b"", True  # nobody says where it ends: reading on might never return
    begun = bytearray()
    while len(begun) < wanted and (piece := source.read(wanted - len(begun))):
        begun += piece
    return bytes(begun), len(begun) > limit or (length.isdecimal() and len(begun) < int(length))


def _target_of(environ: Environ) -> bytes:
    """Path and query as they were asked for."""
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    target = raw.partition("?")[0].encode("latin-1")
    if unquote_to_bytes(target) != path or not target:  # an outer layer may have changed the path
        target = quote(path, safe=SAFE).encode() or b"/"
    query = environ.get("QUERY_STRING", "").encode("latin-1")
    return target + b"?" + query if query else target


def _judged(environ: Environ, ticket: Ticket, source: _Input) -> Environ | None:
    """The environment as it was judged; None if that path is not below where the application is mounted."""
    root = environ.get("SCRIPT_NAME", "")
    path = unquote_to_bytes(ticket.raw_path).decode("latin-1")
    if not is_under(path, root):
        return None
    judged = {name: value for name, value in environ.items() if not _is_field(name)}
    judged.update(header_environ(ticket.headers()))
    judged.update(mesh_environ(ticket))
    judged["PATH_INFO"] = path[len(root.rstrip("/")) :]
    judged["QUERY_STRING"] = ticket.query.encode().decode("latin-1")
    judged["wsgi.input"] = source
    target = ticket.raw_path + ("?" + ticket.query if ticket.query else "")
    for name in ("RAW_URI", "REQUEST_URI"):
        if name in judged:
            judged[name] = target.encode().decode("latin-1")
    return judged


def _is_field(name: str) -> bool:
    return name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")


def _headers(environ: Environ) -> Pairs:
    """As they came, as far as WSGI tells."""
    return [
        (name.removeprefix("HTTP_").replace("_", "-"), value)
        for name, value in environ.items()
        if _is_field(name) and (value != "" or name.startswith("HTTP_"))  # PEP 3333: CONTENT_* may be empty
    ]


def _address(host: Any, port: Any) -> Address:
    """Both are text, and a server may leave them out."""
    port = str(port or 0)
    return (str(host), int(port)) if host and port.isdecimal() else None


def _no_certificates(_: Environ) -> None:
    """WSGI has no place for them."""


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def _sendable(headers: list[tuple[bytes, bytes]], own: Sequence[str] = ()) -> Pairs:
    """PEP 3333 leaves the connection to the server, and lets it fail otherwise."""
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return [(name, value) for name, value in pairs if name != "connection" or name in own]


def _send_reply(start_response: Any, reply: Reply) -> list[bytes]:
    start_response(_status_text(reply.status), _sendable(reply.headers))
    return [reply.body] if reply.body else []


# After the last piece: an object, because only bytes are a piece.
_END: Any = object()
