"""Sends a request body from an iterator while the response is awaited, on the caller's own thread.

Decides: when the next piece is pulled: when the previous one has found room. Never: runs the caller's
iterator on another thread. The response may start before the body has ended; reading it keeps the pump going.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from mesh._native import BodyPipe, Op, Queue


class Pump:
    """One streamed request body and the queue that call, body and response share."""

    def __init__(self, content: Iterable[bytes], pipe: BodyPipe) -> None:
        self.queue = Queue()
        self._chunks: Iterator[bytes] = iter(content)
        self._pipe = pipe
        self._sending: Op | None = None
        self._is_over = False

    def wait(self, op: Op) -> Any:
        """The outcome of `op`; meanwhile the body is sent."""
        try:
            if op.done:
                return op.result()
            while True:
                is_moving = self._advance()
                completed = self.queue.drain() if is_moving else self.queue.wait()
                found = [entry for entry in completed if not self._on_sent(entry[0], entry[1])]
                for token, is_value, value in found:
                    if token == op.token:
                        if is_value:
                            return value
                        raise value
        except BaseException:
            op.cancel()
            self.stop()
            raise

    def stop(self) -> None:
        """Gives the body up: a peer that still reads sees a reset."""
        self._end()
        self._pipe.abort()

    def _advance(self) -> bool:
        """Sends one piece; whether the next may follow at once."""
        if self._is_over or self._sending is not None:
            return False
        chunk = next(self._chunks, None)
        if chunk is None:
            self._end()
            self._pipe.finish(self.queue)
            return False
        sending = self._pipe.send(self.queue, as_bytes(chunk))
        if not sending.done:
            self._sending = sending
            return False
        try:
            sending.result()
        except OSError:  # the peer has read enough; its response says why
            self._end()
        return not self._is_over

    def _on_sent(self, token: int, is_value: bool) -> bool:
        if self._sending is None or token != self._sending.token:
            return False
        self._sending = None
        if not is_value:
            self._end()
        return True

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            if isinstance(self._chunks, Generator):
                self._chunks.close()


def as_bytes(chunk: Any) -> bytes:
    """A piece of a body as bytes."""
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, (bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a body yields bytes, not {type(chunk).__name__}")
