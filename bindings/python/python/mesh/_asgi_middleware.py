"""The inbound check around an ASGI application, under whatever server.

Decides: nothing about requests. Never: waits for a body before a check wants to know it; while a request
waits, to learn that its client left, it takes what comes up to `_HELD`. What was read, the application
receives as it came. Invariant: the application sees a request only after the mesh admitted it,
with the path and the headers that were judged.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from mesh._context import enter, facts_of, leave
from mesh._errors import ClosedError, UsageError
from mesh._native import Ticket, Wanted
from mesh._own_server import (
    NOT_OURS,
    SAFE,
    Check,
    Config,
    Fields,
    Reply,
    der_of,
    is_under,
    refusal_of,
    reply_of,
)
from mesh._wait import bridge

if TYPE_CHECKING:
    from mesh import _native

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
PeerCertificates = Callable[[Scope], Sequence[bytes] | None]


class AsgiMiddleware:
    """Admits the requests of a server of your own: access rules, end users, limits, checks, telemetry.

    `app.add_middleware(mesh.AsgiMiddleware, mesh=m, listener="inbound")`, or `AsgiMiddleware(app, m)`. The
    outermost layer: what routes must see the path that was judged. Starts nothing before the first request,
    and may be forked. `peer_certificates` says which certificates (DER, leaf first) the client proved to own
    in a TLS handshake, where the server does not say it by itself (ASGI's `tls` extension).
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
        self._peer_certificates = peer_certificates or _certificates_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, _Body(receive), send)
        elif scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # the application would see it unjudged
            raise NotImplementedError(f"the mesh judges no {scope['type']!r}")

    async def _serve(self, scope: Scope, body: _Body, send: Send) -> None:
        begun = await self._begin(scope, body)
        if begun is None:
            return
        if isinstance(begun, Reply):
            await _send_reply(send, begun, scope)
            return
        call = _Response(begun, body.receive, send, is_head=scope["method"] == "HEAD")
        judged = _judged(scope, begun)
        if judged is None:
            await _send_reply(call.send, NOT_OURS, scope)
        else:
            await call.run(self._app, judged)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = await self._begin(scope, None)
        if begun is None:
            return
        if isinstance(begun, Reply):
            await _turn_away(scope, receive, send, begun)
            return
        call = _Socket(begun, receive, send)
        judged = _judged(scope, begun)
        if judged is None:
            await _turn_away(scope, call.receive, call.send, NOT_OURS)
        else:
            await call.run(self._app, judged)

    async def _begin(self, scope: Scope, body: _Body | None) -> Ticket | Reply | None:
        """None: the client left meanwhile. `body`: None for a request that has none."""
        method = scope.get("method", "GET")  # a websocket's handshake is one
        try:
            check = self._check.native()
            headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
            head = (method, _target_of(scope), scope.get("http_version", "1.1"), headers)
            chain = [bytes(certificate) for certificate in self._peer_certificates(scope) or ()]
            origin = (_address(scope.get("client")), _address(scope.get("server")), chain)
            queue = bridge().queue
            begun = await _outcome(check.begin(queue, head, origin, body is not None), body)
            if isinstance(begun, Wanted):
                assert body is not None
                given = await _in_time(body.beginning(begun.limit), begun.remaining)
                begun = await _outcome(check.give(queue, begun, given), body)
        except (ClosedError, UsageError) as error:
            return refusal_of(error)
        return begun if begun is None or isinstance(begun, Ticket) else reply_of(begun, method)


class _Body:
    """The messages of a request's body: what was looked at stays the application's to receive."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: deque[Message] = deque()

    async def beginning(self, limit: int) -> tuple[bytes, bool]:
        """At most one byte more than `limit`, and whether there is more."""
        begun, seen = bytearray(), 0
        while True:
            if seen == len(self._waiting):
                self._waiting.append(await self._receive())
            message = self._waiting[seen]
            seen += 1
            if message["type"] != "http.request":  # the client left
                return bytes(begun), True
            begun += message.get("body", b"")
            if len(begun) > limit:
                return bytes(begun[: limit + 1]), True
            if not message.get("more_body", False):
                return bytes(begun), False

    async def until_gone(self) -> None:
        """Returns when the client has left. In a body that goes on, it looks no further than `_HELD`."""
        held = 0
        while not self._waiting or self._waiting[-1]["type"] != "http.disconnect":
            if held > _HELD:
                await asyncio.Event().wait()
            message = await self._receive()
            self._waiting.append(message)
            held += len(message.get("body", b""))

    async def receive(self) -> Message:
        return self._waiting.popleft() if self._waiting else await self._receive()


class _Call:
    """An admitted request, from its first message to its last; the ticket is gone once it is over."""

    def __init__(self, ticket: Ticket, receive: Receive, send: Send) -> None:
        self._ticket: Ticket | None = ticket
        self._receive = receive
        self._send = send
        self._is_answered = False
        # The server has the last of the response. What it says from then on, as that the client is gone, is
        # about a response that is whole, and may come before it returns from `send`, or cancel that.
        self._is_whole = False
        self._is_gone = False
        self._read = 0
        self._sent = 0

    async def run(self, app: Any, scope: Scope) -> None:
        """Runs the application; outgoing calls continue the caller's trace and deadline meanwhile."""
        assert self._ticket is not None
        entered = enter(self._ticket)
        try:
            await app(scope, self.receive, self.send)
            if self._is_whole:
                self._end()
            else:
                self._fail("the application returned before its response was complete")
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            leave(entered)
            self._give_up()  # of what is over, nothing

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    def _answer(self, status: int, headers: Any) -> tuple[int, Fields]:
        fields = [(bytes(name), bytes(value)) for name, value in headers]
        if self._ticket is None:
            return status, fields
        answered = self._ticket.answer(status, fields)
        self._is_answered = True
        return answered

    async def _pass_on(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # so a server says that the client left
            self._is_gone = True
            raise

    def _end(self, trailers: Fields | None = None) -> Fields | None:
        if self._is_gone:
            self._give_up()
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return trailers
        ticket.count_request(self._read)
        return ticket.end(self._sent, trailers)

    def _fail(self, why: str) -> None:
        if self._is_gone:
            self._give_up()
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        if not self._is_answered:
            ticket.answer(500, [])  # as the server will
        ticket.count_request(self._read)
        ticket.fail(self._sent, why)

    def _give_up(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.count_request(self._read)
            ticket.give_up()


class _Response(_Call):
    """`receive` and `send` of one request."""

    def __init__(self, ticket: Ticket, receive: Receive, send: Send, *, is_head: bool) -> None:
        super().__init__(ticket, receive, send)
        self._is_head = is_head
        self._trailers: Fields | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self._is_whole:
            self._is_gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            status, headers = self._answer(message["status"], message.get("headers", ()))
            self._trailers = [] if message.get("trailers", False) else None
            await self._pass_on({**message, "status": status, "headers": headers})
        elif kind == "http.response.trailers" and self._trailers is not None:
            await self._send_trailers(message)
        else:
            length = 0 if self._is_head else _length_of(message)
            is_body = kind in ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")
            if is_body and not message.get("more_body", False) and self._trailers is None:
                self._is_whole, self._sent = True, self._sent + length
                await self._pass_on(message)
                self._end()
            else:
                await self._pass_on(message)
                self._sent += length

    async def _send_trailers(self, message: Message) -> None:
        """Sent as one: what the mesh adds or takes away depends on all of them."""
        assert self._trailers is not None
        self._trailers += [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        if not message.get("more_trailers", False):
            headers = self._end(self._trailers) or []
            await self._pass_on({**message, "headers": headers})


class _Socket(_Call):
    """`receive` and `send` of one websocket: answered when it is accepted, over when it is closed."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self._read += _size_of(message)
        elif message["type"] == "websocket.disconnect":
            self._end()  # of what was not accepted yet, nothing was answered: it was given up
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            _, headers = self._answer(101, message.get("headers", ()))
            message = {**message, "headers": headers}
        elif kind == "websocket.http.response.start":
            status, headers = self._answer(message["status"], message.get("headers", ()))
            message = {**message, "status": status, "headers": headers}
        elif kind == "websocket.close" and not self._is_answered:
            self._answer(403, ())  # as the server will
        await self._pass_on(message)
        self._sent += _size_of(message)
        is_answer = kind == "websocket.http.response.body" and not message.get("more_body", False)
        if is_answer or kind == "websocket.close":
            self._end()


async def _outcome(op: _native.Op, body: _Body | None) -> Any:
    """None, and what has to be waited for is given up, if the client leaves before."""
    if op.done or body is None:
        return await bridge().wait(op)
    answered: asyncio.Future[Any] = asyncio.ensure_future(bridge().wait(op))
    gone = asyncio.ensure_future(body.until_gone())
    try:
        await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answered.result() if answered.done() else gone.result()
    finally:
        answered.cancel()
        gone.cancel()
        await asyncio.gather(answered, gone, return_exceptions=True)


async def _in_time(beginning: Awaitable[tuple[bytes, bool]], remaining: float) -> tuple[bytes, bool] | None:
    """None: it is too late."""
    try:
        return await asyncio.wait_for(beginning, remaining)
    except asyncio.TimeoutError:
        return None


def _target_of(scope: Scope) -> bytes:
    """Path and query as they were asked for; with `root_path`, whether or not the server leaves it in."""
    path, root = scope["path"], scope.get("root_path", "")
    target = _raw_path(scope)
    if not is_under(path, root):
        target = quote(root.rstrip("/"), safe=SAFE).encode() + target
    query = scope.get("query_string", b"")
    return target + b"?" + query if query else target


def _raw_path(scope: Scope) -> bytes:
    """As it arrived, if that is still what `path` says: an outer layer may have changed only the one."""
    path, raw = scope["path"], scope.get("raw_path")
    if raw and unquote(raw) == path:
        return bytes(raw)
    return quote(path, safe=SAFE, errors="surrogateescape").encode() or b"/"


def _judged(scope: Scope, ticket: Ticket) -> Scope | None:
    """The scope as the mesh has judged it; None if it is not below where the application is mounted."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    raw = ticket.raw_path
    judged = unquote(raw)
    if not is_under(judged, root):
        return None
    if not is_under(path, root):
        judged = judged[len(root) :]
        raw = quote(judged, safe=SAFE)
    headers = ticket.headers()
    offered = {"subprotocols": _subprotocols_of(headers)} if "subprotocols" in scope else {}
    return {
        **scope,
        **offered,
        "path": judged,
        "raw_path": raw.encode(),
        "query_string": ticket.query.encode(),
        "headers": headers,
        "extensions": {**(scope.get("extensions") or {}), "mesh": facts_of(ticket)},
    }


def _subprotocols_of(headers: Fields) -> list[str]:
    """What a websocket's handshake offers, as it was judged."""
    lists = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return [offered for text in lists for part in text.split(",") if (offered := part.strip())]


def _address(pair: Any) -> tuple[str, int] | None:
    """A server on a Unix socket says a path and None."""
    return (str(pair[0]), int(pair[1])) if pair and pair[1] is not None else None


def _certificates_of(scope: Scope) -> list[bytes]:
    """By ASGI's TLS extension. A chain that the server has found wrong proves nothing."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    if tls.get("client_cert_error"):
        return []
    return [der_of(pem) for pem in tls.get("client_cert_chain") or ()]


def _length_of(message: Message) -> int:
    kind, length = message["type"], 0
    if kind == "http.response.body":
        length = len(message.get("body", b""))
    elif kind == "http.response.pathsend":
        length = os.stat(message["path"]).st_size
    elif kind == "http.response.zerocopysend":
        count = message.get("count")
        rest = os.fstat(message["file"].fileno()).st_size - message.get("offset", 0)
        length = rest if count is None else count
    return length


def _size_of(message: Message) -> int:
    text = message.get("text")
    return len(text.encode()) if text else len(message.get("bytes") or message.get("body") or b"")


async def _send_reply(send: Send, reply: Reply, scope: Scope) -> None:
    has_trailers = bool(reply.trailers) and "http.response.trailers" in (scope.get("extensions") or {})
    start: Message = {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
    await send({**start, "trailers": True} if has_trailers else start)
    await send({"type": "http.response.body", "body": reply.body})
    if has_trailers:
        await send({"type": "http.response.trailers", "headers": reply.trailers})


async def _turn_away(scope: Scope, receive: Receive, send: Send, reply: Reply) -> None:
    """Answers a handshake: with our answer, if the server can send one."""
    if (await receive())["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or {}):
        head = {"status": reply.status, "headers": reply.headers}
        await send({"type": "websocket.http.response.start", **head})
        await send({"type": "websocket.http.response.body", "body": reply.body})
    else:
        await send({"type": "websocket.close", "code": 1008})  # policy violation, RFC 6455 7.4.1


# Bytes of a body that a waiting request holds, to see whether its client is still there: a socket's buffer.
_HELD = 64 * 1024
