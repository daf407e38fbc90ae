"""Responses, for code that blocks and for code that awaits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from mesh._headers import Headers
from mesh._wait import bridge, thread_queue

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from mesh import _native
    from mesh._pump import Pump


class ResponseHead:
    """What is known before the body: status, headers, and how the mesh got it."""

    def __init__(self, native: _native.Response) -> None:
        self._native = native
        self._headers: Headers | None = None
        self._content: bytes | None = None
        self._is_closed = False

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._native.status

    @property
    def http_version(self) -> str:
        """ "1.1" or "2"."""
        return self._native.http_version

    @property
    def headers(self) -> Headers:
        """Header fields; several values per name are possible."""
        if self._headers is None:
            self._headers = Headers(self._native.headers())
        return self._headers

    @property
    def trailers(self) -> Headers:
        """Trailer fields; empty before the body was read to its end."""
        return Headers(self._native.trailers() or [])

    @property
    def peer_id(self) -> str | None:
        """SPIFFE ID of the server, verified; None in plaintext."""
        return self._native.peer_id

    @property
    def attempts(self) -> int:
        """Attempts made, the first included."""
        return self._native.attempts

    @property
    def endpoint(self) -> str | None:
        """Address that answered."""
        return self._native.endpoint

    @property
    def cluster(self) -> str | None:
        """Cluster that answered."""
        return self._native.cluster

    @property
    def route(self) -> str | None:
        """Route rule that matched."""
        return self._native.route

    @property
    def revision(self) -> int:
        """Revision of the configuration that decided the call."""
        return self._native.revision

    @property
    def is_closed(self) -> bool:
        """Whether the connection was given back."""
        return self._is_closed

    def _decode(self, content: bytes) -> str:
        kind, _, options = self.headers.get("content-type", "").partition("charset=")
        charset = options.split(";")[0].strip(" \"'") if kind else ""
        try:
            return content.decode(charset or "utf-8", "replace")
        except LookupError:
            return content.decode("utf-8", "replace")

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ValueError("the response was closed or read already")

    def _end(self) -> None:
        self._is_closed = True
        self._native.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} from {self.endpoint}>"


class Response(ResponseHead):
    """A response whose body is still on its way. Read it, close it, or let it go: the connection is freed."""

    def __init__(self, native: _native.Response, pump: Pump | None = None) -> None:
        super().__init__(native)
        self._pump = pump

    def read(self) -> bytes:
        """The whole body."""
        if self._content is None:
            if self._pump is not None:
                self._content = b"".join(self.iter_bytes())
            else:
                self._refuse_closed()
                try:
                    self._content = self._native.read_all(thread_queue()).wait()
                finally:
                    self._end()
        return self._content

    @property
    def content(self) -> bytes:
        """The whole body."""
        return self.read()

    @property
    def text(self) -> str:
        """The whole body as text, by the charset of content-type, else UTF-8."""
        return self._decode(self.read())

    def json(self) -> Any:
        """The whole body as JSON."""
        return json.loads(self.read())

    def iter_bytes(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive; the peer waits while nothing is read."""
        if self._content is not None:
            yield self._content
            return
        self._refuse_closed()
        while (chunk := self._next()) is not None:
            yield chunk
        self._is_closed = True

    def close(self) -> None:
        """Gives the connection back; what was not read is not read any more."""
        if self._pump is not None:
            self._pump.stop()
        self._end()

    def _next(self) -> bytes | None:
        try:
            if self._pump is not None:
                chunk: bytes | None = self._pump.wait(self._native.read(self._pump.queue))
            else:
                chunk = self._native.read(thread_queue()).wait()
            return chunk
        except BaseException:  # an interrupted read may have lost a piece: no more of it
            self.close()
            raise

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncResponse(ResponseHead):
    """A response whose body is still on its way, for asyncio."""

    def __init__(self, native: _native.Response, pump: asyncio.Task[None] | None = None) -> None:
        super().__init__(native)
        self._pump = pump

    async def aread(self) -> bytes:
        """The whole body."""
        if self._content is None:
            self._refuse_closed()
            waiter = bridge()
            try:
                self._content = await waiter.wait(self._native.read_all(waiter.queue))
            finally:
                self._end()
        return self._content

    read = aread

    @property
    def content(self) -> bytes:
        """The body, after `aread`."""
        if self._content is None:
            raise ValueError("the body was not read; use `await response.aread()` first")
        return self._content

    @property
    def text(self) -> str:
        """The body as text, after `aread`."""
        return self._decode(self.content)

    async def json(self) -> Any:
        """The whole body as JSON."""
        return json.loads(await self.aread())

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body in pieces, as they arrive; the peer waits while nothing is read."""
        if self._content is not None:
            yield self._content
            return
        self._refuse_closed()
        while (chunk := await self._next()) is not None:
            yield chunk
        self._is_closed = True

    async def aclose(self) -> None:
        """Gives the connection back; what was not read is not read any more."""
        if self._pump is not None:
            self._pump.cancel()
        self._end()

    async def _next(self) -> bytes | None:
        waiter = bridge()
        try:
            chunk: bytes | None = await waiter.wait(self._native.read(waiter.queue))
            return chunk
        except BaseException:  # an interrupted read may have lost a piece: no more of it
            await self.aclose()
            raise

    async def __aenter__(self) -> AsyncResponse:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
