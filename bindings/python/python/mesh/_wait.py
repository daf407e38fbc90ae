"""How Python waits for the mesh: a thread blocks, an event loop watches a descriptor.

Invariant: the mesh's threads only push to a native queue; every Python object is made and touched here, on
the thread that waits.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop, Future
from typing import Any
from weakref import WeakKeyDictionary

from mesh._native import Op, Queue


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.queue = Queue()


class Bridge:
    """Completes futures of one event loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.queue = Queue()
        self._pending: dict[int, Future[Any]] = {}
        watch(loop, self.queue.fileno(), self._drain)

    async def wait(self, op: Op) -> Any:
        """The operation's outcome; cancelling the caller cancels the operation."""
        if op.done:
            return op.result()
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[op.token] = future
        try:
            return await future
        finally:
            self._pending.pop(op.token, None)
            if not future.done() or future.cancelled():  # the caller was cancelled, or its coroutine closed
                op.cancel()

    def _drain(self) -> None:
        for token, is_value, value in self.queue.drain():
            future = self._pending.get(token)
            if future is None or future.done():
                continue  # cancelled meanwhile: the value's finalizer gives its resources back
            if is_value:
                future.set_result(value)
            else:
                future.set_exception(value)


def watch(loop: AbstractEventLoop, fd: int, callback: Any) -> None:
    """Calls `callback` on the loop whenever `fd` is readable."""
    try:
        loop.add_reader(fd, callback)
    except NotImplementedError:  # a loop without add_reader (Windows' proactor)
        threading.Thread(target=_poll_for, args=(loop, fd, callback), daemon=True).start()


def _poll_for(loop: AbstractEventLoop, fd: int, callback: Any) -> None:
    import select

    drained = threading.Event()

    def run() -> None:
        callback()
        drained.set()

    while not loop.is_closed():
        if not select.select([fd], [], [], 1.0)[0]:
            continue
        drained.clear()
        try:
            loop.call_soon_threadsafe(run)
        except RuntimeError:
            return
        drained.wait(1.0)


_threads = _PerThread()
_bridges: WeakKeyDictionary[AbstractEventLoop, Bridge] = WeakKeyDictionary()


def thread_queue() -> Queue:
    """The queue on which the calling thread blocks."""
    return _threads.queue


def bridge() -> Bridge:
    """The bridge of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _bridges.get(loop)
    if found is None:
        found = _bridges[loop] = Bridge(loop)
    return found


def forget_parent() -> None:
    """Called in a forked child: queues made before belong to the parent."""
    global _threads, _bridges
    _threads = _PerThread()
    _bridges = WeakKeyDictionary()
