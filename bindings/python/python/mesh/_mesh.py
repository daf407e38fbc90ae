"""The handle an application holds.

Decides: which process a native mesh belongs to: a forked child gets a new one from the same configuration on
next use. Never: starts a thread before first use. Invariant: a `Mesh` never hangs because of a fork.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from mesh import _native, _wait
from mesh._client import AsyncClient, Client
from mesh._errors import ClosedError, ConfigError
from mesh._guard import Guard

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from mesh._serve import ServeOptions

Kind = Literal["auto", "wsgi", "asgi"]


class Mesh:
    """A configured mesh: clients and servers of one workload."""

    def __init__(self, build: Callable[[], _native.Mesh], recipe: tuple[str, str, str]) -> None:
        """Not API: use `from_file` or `from_yaml`."""
        self._build = build
        self._recipe = recipe
        self._is_closed = False
        self._reloaded: tuple[str, str] | None = None
        self._opening = threading.Lock()
        self._native: _native.Mesh | None = build()
        _meshes.add(self)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Mesh:
        """Reads and checks a configuration file, which is then watched. Starts no thread."""
        where = Path(path).absolute()
        good: list[str] = []

        def build() -> _native.Mesh:
            try:
                opened = _native.Mesh.from_file(where)
            except ConfigError:
                if not good:
                    raise
                # A forked child whose file was broken meanwhile goes on with what its parent runs on.
                return _native.Mesh.from_yaml(good[0], str(where))
            good[:] = [where.read_text()]
            return opened

        return cls(build, ("from_file", str(where), ""))

    @classmethod
    def from_yaml(cls, text: str, origin: str = "<text>") -> Mesh:
        """Checks a configuration given as text; `origin` names it in diagnostics."""
        return cls(lambda: _native.Mesh.from_yaml(text, origin), ("from_yaml", text, origin))

    def client(self) -> Client:
        """A blocking client."""
        return Client(self)

    def aclient(self) -> AsyncClient:
        """A client for asyncio."""
        return AsyncClient(self)

    def guard(
        self,
        name: str,
        *,
        retry_on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError),
        expected: tuple[type[Exception], ...] = (),
        idempotent: bool | None = None,
        timeout: float | None = None,
    ) -> Guard:
        """The guard that the configuration calls `name`, a decorator for `def` and `async def`.

        `retry_on`: failures that may not happen another time. After such a failure the function may have
        acted, so it is repeated only if it is `idempotent`, by this argument or by the configuration; a
        refused connection always is. `expected`: answers, not failures (KeyError of a look-up, say). Errors
        of the mesh speak for themselves. `timeout` bounds the whole call, in seconds.
        """
        return Guard(self, name, retry_on=retry_on, expected=expected, idempotent=idempotent, timeout=timeout)

    def serve(self, app: Any, listener: str = "inbound", **options: Unpack[ServeOptions]) -> None:
        """Serves a WSGI or ASGI application on the mesh's listener until Ctrl-C, SIGTERM or `close`."""
        from mesh._serve import serve_blocking

        serve_blocking(self, app, listener, options)

    async def aserve(self, app: Any, listener: str = "inbound", **options: Unpack[ServeOptions]) -> None:
        """Like `serve`, in the running event loop; cancel it to stop."""
        from mesh._serve import serve_async

        await serve_async(self, app, listener, options)

    def start(self) -> None:
        """Starts now instead of on first use, to see a failure early."""
        self._started(False).start()

    def reload(self, text: str, origin: str = "<reload>") -> int:
        """Puts a new document in force, all or nothing. Returns its revision."""
        revision = self._started(False).reload(text, origin)
        self._reloaded = (text, origin)
        return revision

    def status(self) -> dict[str, Any]:
        """What a support engineer asks for."""
        status: dict[str, Any] = json.loads(self._current().status())
        return status

    def report_load(
        self,
        *,
        utilization: float | None = None,
        cpu: float | None = None,
        memory: float | None = None,
        queue_depth: float | None = None,
        metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Says how loaded this process is, until it is said anew; what is left out stays as it was.

        `utilization`: 1.0 is all it can, by its own measure; balancers weigh by this. `metrics`: by names of
        your own; None takes one back. Responses tell it to callers that ask (`listeners[].load_reports`).
        """
        said = {"utilization": utilization, "cpu": cpu, "memory": memory, "queue_depth": queue_depth}
        native = self._current()
        for name, value in said.items():
            if value is not None:
                native.report_load(name, value)
        for name, value in (metrics or {}).items():
            native.report_load(name, value)

    def metrics_text(self) -> str:
        """All metrics in Prometheus' text format."""
        return self._current().metrics_text()

    def set_serving(self, serving: bool) -> None:
        """Says whether new requests are wanted; a mesh begins with True.

        Callers within the mesh learn it from the next response and go elsewhere while they can; what still
        comes is served.
        """
        self._started(False).set_serving(serving)

    def drain(self, seconds: float = 5.0) -> None:
        """Lame duck: tells callers to go elsewhere, serves what still comes, then stops listening."""
        self._started(False).drain(_wait.thread_queue(), seconds).wait()

    async def adrain(self, seconds: float = 5.0) -> None:
        """`drain` for asyncio."""
        waiter = _wait.bridge()
        await waiter.wait(self._started(False).drain(waiter.queue, seconds))

    def close(self, timeout: float = 5.0) -> None:
        """Ends everything this mesh started; calls in flight fail with `ClosedError`."""
        self._is_closed = True
        if self._native is not None:
            self._native.close(timeout)

    async def aclose(self, timeout: float = 5.0) -> None:
        """`close` for asyncio."""
        await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Mesh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled mesh is its configuration: it is opened anew where it arrives."""
        return _reopen, self._recipe

    def _current(self) -> _native.Mesh:
        native = self._native
        if native is None:
            with self._opening:  # threads of a forked child find one mesh, not one each
                native = self._native
                if native is None:
                    native = self._build()
                    if self._reloaded is not None:
                        native.reload(*self._reloaded)
                    self._native = native
        return native

    def _started(self, is_client_closed: bool) -> _native.Mesh:
        if self._is_closed or is_client_closed:
            raise ClosedError("this mesh was closed" if self._is_closed else "this client was closed")
        return self._current()


def _reopen(how: str, source: str, origin: str) -> Mesh:
    return Mesh.from_file(source) if how == "from_file" else Mesh.from_yaml(source, origin)


_meshes: WeakSet[Mesh] = WeakSet()


def _in_forked_child() -> None:
    """The old native values are refused and leaked by the native module itself; here they are replaced."""
    _wait.forget_parent()
    for mesh in list(_meshes):
        mesh._native = None
        mesh._opening = threading.Lock()  # a thread of the parent may hold the other


def _at_exit() -> None:
    """Daemon threads that call on end quietly in the native module; `Mesh.close` would have them raise."""
    _native.leave()
    for mesh in list(_meshes):
        if mesh._native is not None:
            mesh._native.close(1.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)
