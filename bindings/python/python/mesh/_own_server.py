"""What the ASGI and the WSGI middleware share: the check of one listener, and answers that are ours.

Decides: which process a native check belongs to, as `Mesh` does. Never: decides about a request. Invariant: a
request that could not be judged is answered, and the application does not see it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Union

from mesh._errors import ClosedError, MeshError, UsageError
from mesh._mesh import Mesh

if TYPE_CHECKING:
    from mesh import _native

Config = Union[Mesh, str, "os.PathLike[str]"]
Fields = list[tuple[bytes, bytes]]
Address = tuple[str, int] | None


class Check:
    """The inbound check of one listener, in whatever process it is asked for."""

    def __init__(self, config: Config, listener: str) -> None:
        self._mesh = config if isinstance(config, Mesh) else Mesh.from_file(config)
        self._listener = listener
        self._made = self._make(self._mesh._current())  # a listener that does not exist is an error now

    def native(self) -> _native.InboundCheck:
        """The check of this process. After a fork that is another one."""
        native = self._mesh._started(False)
        made = self._made
        if made[0] is not native:
            made = self._made = self._make(native)
        return made[1]

    def _make(self, native: _native.Mesh) -> tuple[_native.Mesh, _native.InboundCheck]:
        return native, native.inbound_check(self._listener)


class Reply(NamedTuple):
    """An answer that the application never saw."""

    status: int
    headers: Fields
    body: bytes
    trailers: Fields | None = None


def reply_of(answer: _native.Answer, method: str) -> Reply:
    """The mesh's answer, as it is to be sent to a request of this method."""
    headers, trailers, body = answer.headers(), answer.trailers(), answer.body
    has_body = answer.status >= 200 and answer.status not in (204, 304)
    if has_body and trailers is None and all(name != b"content-length" for name, _ in headers):
        headers.append((b"content-length", str(len(body)).encode()))
    return Reply(answer.status, headers, b"" if method == "HEAD" else body, trailers)


def refusal_of(error: MeshError) -> Reply:
    """The answer to a request that could not be judged."""
    if isinstance(error, UsageError):
        return _refusal(400, b"Bad Request\n")
    if isinstance(error, ClosedError):
        return _refusal(503, b"Service Unavailable\n")
    raise error


def is_under(path: str, root: str) -> bool:
    """Whether a path belongs to the application that is mounted at `root`."""
    root = root.rstrip("/")
    return not root or path == root or path.startswith(root + "/")


@lru_cache(maxsize=1024)
def der_of(pem: str) -> bytes:
    """A certificate as the mesh reads it. Servers hand the same one over with each request."""
    import ssl  # slow, and the server that has certificates has it

    return ssl.PEM_cert_to_DER_cert(pem)


def _refusal(status: int, body: bytes) -> Reply:
    length = str(len(body)).encode()
    return Reply(status, [(b"content-type", b"text/plain"), (b"content-length", length)], body)


# What RFC 3986 lets stand in a path as it is.
SAFE = "/!$&'()*+,;=:@~"
# A path that, once in one form, lies outside of where this application is mounted, is another application's.
NOT_OURS = _refusal(404, b"Not Found\n")
