"""Clients: blocking and asyncio. They convert; routes, retries and deadlines are the mesh's.

`http://reviews/reviews/7` names the service `reviews`, not a host: the routes of the configuration decide.
"""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote

from mesh import _native
from mesh._context import CURRENT
from mesh._headers import HeaderInput, header_pairs
from mesh._pump import Pump, as_bytes
from mesh._response import AsyncResponse, Response
from mesh._wait import bridge, thread_queue

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from mesh._mesh import Mesh

Content = bytes | bytearray | memoryview | str | Iterable[bytes] | None
AsyncContent = Content | AsyncIterable[bytes]


class CallOptions(TypedDict, total=False):
    """What every call takes besides method, URL and body."""

    headers: HeaderInput
    """Header fields, as a mapping or as pairs."""
    json: Any
    """A body to be sent as JSON, instead of `content`."""
    timeout: float | None
    """Seconds for the whole request; a route's timeout and an inherited deadline still apply."""
    idempotent: bool | None
    """Whether the request may be sent twice; by default its method decides."""
    detached: bool
    """Whether it goes on when the request being served runs out of time: for what is not waited for."""


class Client:
    """Calls services and blocks for the answer. Safe to share between threads."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._is_closed = False

    def request(
        self, method: str, url: str, *, content: Content = None, **options: Unpack[CallOptions]
    ) -> Response:
        """Sends one request; returns when the response head is there, its body still on its way."""
        native = self._mesh._started(self._is_closed)
        headers, body = _prepared(content, options)
        if body is None or isinstance(body, bytes):
            op = native.call(thread_queue(), _request(method, url, (headers, body), options))
            return Response(op.wait())
        pipe = native.pipe(_length(headers))
        pump = Pump(body, pipe)
        request = _request(method, url, (headers, pipe), options)
        return Response(pump.wait(native.call(pump.queue, request)), pump)

    @contextmanager
    def stream(
        self, method: str, url: str, *, content: Content = None, **options: Unpack[CallOptions]
    ) -> Iterator[Response]:
        """Like `request`, and closes the response at the end of the block."""
        with self.request(method, url, content=content, **options) as response:
            yield response

    def get(self, url: str, **options: Unpack[CallOptions]) -> Response:
        """GET."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[CallOptions]) -> Response:
        """HEAD."""
        return self.request("HEAD", url, **options)

    def post(self, url: str, *, content: Content = None, **options: Unpack[CallOptions]) -> Response:
        """POST."""
        return self.request("POST", url, content=content, **options)

    def put(self, url: str, *, content: Content = None, **options: Unpack[CallOptions]) -> Response:
        """PUT."""
        return self.request("PUT", url, content=content, **options)

    def patch(self, url: str, *, content: Content = None, **options: Unpack[CallOptions]) -> Response:
        """PATCH."""
        return self.request("PATCH", url, content=content, **options)

    def delete(self, url: str, **options: Unpack[CallOptions]) -> Response:
        """DELETE."""
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """Refuses further calls. The mesh and its connections stay."""
        self._is_closed = True

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """Calls services from asyncio. May be used from several event loops."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._is_closed = False

    async def request(
        self, method: str, url: str, *, content: AsyncContent = None, **options: Unpack[CallOptions]
    ) -> AsyncResponse:
        """Sends one request; returns when the response head is there, its body still on its way."""
        native = self._mesh._started(self._is_closed)
        waiter = bridge()
        if not isinstance(content, AsyncIterable):
            headers, body = _prepared(content, options)
            if body is None or isinstance(body, bytes):
                op = native.call(waiter.queue, _request(method, url, (headers, body), options))
                return AsyncResponse(await waiter.wait(op))
            content = _as_async(body)
        headers, _ = _prepared(None, options)
        pipe = native.pipe(_length(headers))
        op = native.call(waiter.queue, _request(method, url, (headers, pipe), options))
        return await _streamed(op, content, pipe)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, content: AsyncContent = None, **options: Unpack[CallOptions]
    ) -> AsyncIterator[AsyncResponse]:
        """Like `request`, and closes the response at the end of the block."""
        async with await self.request(method, url, content=content, **options) as response:
            yield response

    async def get(self, url: str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """GET."""
        return await self.request("GET", url, **options)

    async def head(self, url: str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """HEAD."""
        return await self.request("HEAD", url, **options)

    async def post(
        self, url: str, *, content: AsyncContent = None, **options: Unpack[CallOptions]
    ) -> AsyncResponse:
        """POST."""
        return await self.request("POST", url, content=content, **options)

    async def put(
        self, url: str, *, content: AsyncContent = None, **options: Unpack[CallOptions]
    ) -> AsyncResponse:
        """PUT."""
        return await self.request("PUT", url, content=content, **options)

    async def patch(
        self, url: str, *, content: AsyncContent = None, **options: Unpack[CallOptions]
    ) -> AsyncResponse:
        """PATCH."""
        return await self.request("PATCH", url, content=content, **options)

    async def delete(self, url: str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """DELETE."""
        return await self.request("DELETE", url, **options)

    async def aclose(self) -> None:
        """Refuses further calls. The mesh and its connections stay."""
        self._is_closed = True

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _streamed(op: _native.Op, content: AsyncIterable[bytes], pipe: _native.BodyPipe) -> AsyncResponse:
    """Sends the body in a task of its own, so that a response may start before the body has ended."""
    task = asyncio.create_task(_send(content, pipe))
    head = asyncio.ensure_future(bridge().wait(op))
    try:
        await asyncio.wait({task, head}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled() and task.exception() is not None and not head.done():
            task.result()  # the caller's own iterator failed: that is what it wants to see
        return AsyncResponse(await head, task)
    except BaseException:
        task.cancel()
        head.cancel()
        pipe.abort()
        raise


async def _send(content: AsyncIterable[bytes], pipe: _native.BodyPipe) -> None:
    waiter = bridge()
    try:
        async for chunk in content:
            sending = pipe.send(waiter.queue, as_bytes(chunk))
            try:
                await waiter.wait(sending)
            except OSError:
                return  # the peer has read enough; its response says why
        await waiter.wait(pipe.finish(waiter.queue))
    except BaseException:
        pipe.abort()
        raise


async def _as_async(content: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in content:
        yield chunk


def _prepared(
    content: Content, options: CallOptions
) -> tuple[list[tuple[str, str]], bytes | Iterable[bytes] | None]:
    headers = header_pairs(options.get("headers"))
    document = options.get("json")
    if document is not None:
        if content is not None:
            raise ValueError("pass content or json, not both")
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("content-type", "application/json"))
        return headers, json_module.dumps(document, separators=(",", ":")).encode()
    if isinstance(content, str):
        return headers, content.encode()
    if isinstance(content, (bytearray, memoryview)):
        return headers, bytes(content)
    read = getattr(content, "read", None)
    if callable(read):  # a file: by size, not by line
        return headers, iter(lambda: read(_FILE_PIECE), b"")
    return headers, content


def _request(
    method: str,
    url: str,
    message: tuple[list[tuple[str, str]], bytes | _native.BodyPipe | None],
    options: CallOptions,
) -> _native.Request:
    headers, body = message
    if not url.isascii() or " " in url:
        url = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = _native.Request((method.upper(), url), headers, body)
    request.options(
        options.get("timeout"), options.get("idempotent"), options.get("detached", False), CURRENT.get()
    )
    return request


def _length(headers: list[tuple[str, str]]) -> int | None:
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    return int(lengths[0]) if lengths else None


# Bytes read from a file at a time: a few TLS records, small beside any connection's window.
_FILE_PIECE = 64 * 1024
