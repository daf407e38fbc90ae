"""Plain functions under the mesh's policy: retry, budget, timeout, breaker and limit, by name.

Decides: nothing; the engine says after each attempt what comes next, this runs the function and sleeps.
Never: runs a function on another thread, or goes on after a cancellation or `KeyboardInterrupt`.
Invariant: what the function raised last is what its caller sees, unless the guard itself refused or cut it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mesh import _native
from mesh._context import CURRENT
from mesh._errors import MeshError

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from mesh._mesh import Mesh

    P = ParamSpec("P")

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Errors = tuple[type[Exception], ...]


class Guard:
    """A guard of the configuration: decorates `def` and `async def`, or calls a function once.

    @m.guard("inventory")
    def stock(sku): ...

    m.guard("inventory").call(stock, sku)
    """

    def __init__(
        self,
        mesh: Mesh,
        name: str,
        *,
        retry_on: Errors,
        expected: Errors,
        idempotent: bool | None,
        timeout: float | None,
    ) -> None:
        """Not API: use `Mesh.guard`."""
        self.name = name
        self._mesh = mesh
        self._retry_on = retry_on
        self._expected = expected
        self._idempotent = idempotent
        self._timeout = timeout
        self._owner: _native.Mesh | None = None
        self._native: _native.Guard | None = None
        self._current()

    def __call__(self, function: F) -> F:
        """The function under this guard."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                return await self.acall(function, *args, **kwargs)

            return cast("F", awaited)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            return self.call(function, *args, **kwargs)

        return cast("F", called)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function here, on this thread, and sleeps here between attempts.

        An attempt cannot be cut, but calls of the mesh inside it end by its deadline.
        """
        call = self._begin()
        try:
            return self._run(call, lambda: function(*args, **kwargs))
        except BaseException:
            call.next("ignored")  # of no effect once the call is over
            raise

    async def acall(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Awaits the function, and cuts an attempt at its limit."""
        call = self._begin()
        try:
            return await self._arun(call, lambda: function(*args, **kwargs))
        except BaseException:
            call.next("ignored")
            raise

    def _run(self, call: _native.GuardCall, attempt: Callable[[], R]) -> R:
        outcome, last = _READY, _Last()
        while True:
            action, seconds, context = self._next(call, outcome, last)
            if action == "stop":
                return cast("R", last.give())
            if action == "wait":
                time.sleep(seconds or 0.0)
                outcome = _READY
                continue
            token = CURRENT.set(context)
            try:
                outcome, last = _SUCCESS, _Last(value=attempt())
            except Exception as error:
                outcome, last = self._outcome_of(error), _Last(error=error)
            finally:
                CURRENT.reset(token)

    async def _arun(self, call: _native.GuardCall, attempt: Callable[[], Awaitable[R]]) -> R:
        outcome, last = _READY, _Last()
        while True:
            action, seconds, context = self._next(call, outcome, last)
            if action == "stop":
                return cast("R", last.give())
            if action == "wait":
                await asyncio.sleep(seconds or 0.0)
                outcome = _READY
                continue
            token = CURRENT.set(context)
            try:
                outcome, last = _SUCCESS, _Last(value=await _within(seconds, attempt()))
            except _Expired:
                outcome, last = _TIMED_OUT, _Last()
            except Exception as error:
                outcome, last = self._outcome_of(error), _Last(error=error)
            finally:
                CURRENT.reset(token)

    def _begin(self) -> _native.GuardCall:
        return self._current().begin(self._idempotent, self._timeout, CURRENT.get())

    @staticmethod
    def _next(
        call: _native.GuardCall, outcome: tuple[str, float | None], last: _Last
    ) -> tuple[str, float | None, _native.Context | None]:
        try:
            return call.next(*outcome)
        except MeshError as refused:
            raise refused from last.error

    def _current(self) -> _native.Guard:
        """The guard of this process: a forked child has a mesh of its own."""
        mesh = self._mesh._started(False)
        if self._native is None or mesh is not self._owner:
            self._native = mesh.guard(self.name)
            self._owner = mesh
        return self._native

    def _outcome_of(self, error: Exception) -> tuple[str, float | None]:
        """What the error says; the engine decides what to do about it."""
        hint = getattr(error, "retry_after", None)
        retry_after = float(hint) if isinstance(hint, (int, float)) and hint >= 0 else None
        if isinstance(error, MeshError):
            return _native.outcome_of(error.kind, error.sent), retry_after
        if isinstance(error, self._expected):
            return "rejected", None
        if isinstance(error, self._retry_on):
            return "unprocessed" if isinstance(error, ConnectionRefusedError) else "transient", retry_after
        return "failed", None


class _Last:
    """What the last attempt gave."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value = value
        self.error = error

    def give(self) -> Any:
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            self.error = None  # no cycle of exception, traceback and frame


class _Expired(Exception):
    """The attempt was cut."""


async def _within(seconds: float | None, attempt: Awaitable[R]) -> R:
    """The result, or `_Expired` when it takes longer. Whoever cancels us cancels the attempt."""
    if seconds is None:
        return await attempt
    task = asyncio.ensure_future(attempt)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _ended(task)
        raise
    if task.done():
        return task.result()
    await _ended(task)
    if task.cancelled():
        raise _Expired
    return task.result()  # it ended just then, or made something of its cancellation


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancels the attempt and waits until it is gone, so that no two attempts run at once."""
    task.cancel()
    await asyncio.wait({task})


_READY: tuple[str, float | None] = ("ready", None)
_SUCCESS: tuple[str, float | None] = ("success", None)
_TIMED_OUT: tuple[str, float | None] = ("timed_out", None)
