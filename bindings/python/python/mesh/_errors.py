"""What a call can raise.

Decides: which class stands for which kind. Each class also is the standard one that people catch already
(`ConnectionError`, `TimeoutError`, `PermissionError`, ...). `kind` is the stable name; text is not API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "CallCancelled",
    "CircuitOpen",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "DeadlineExceeded",
    "Denied",
    "Diagnostic",
    "ForkedError",
    "InternalError",
    "MeshError",
    "NoEndpoint",
    "NoRoute",
    "Overloaded",
    "PeerIdentityError",
    "ProtocolError",
    "RateLimited",
    "ReadTimeout",
    "Rejected",
    "RemoteReset",
    "TransportError",
    "UsageError",
]


@dataclass(frozen=True)
class Diagnostic:
    """One finding in a configuration file."""

    severity: str
    file: str
    line: int
    column: int
    path: str
    message: str
    expected: str | None = None
    hint: str | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.file}:{self.line}:{self.column}: {self.path}: {self.message}"


class MeshError(Exception):
    """Anything the mesh raises.

    `sent` says whether the peer can have acted on the request: "never", "unprocessed" or "maybe".
    """

    default_kind: ClassVar[str] = "internal"

    kind: str
    sent: str
    attempts: int
    route: str | None
    cluster: str | None
    endpoint: str | None
    retry_after: float | None

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self._message = message
        self.kind = fields.get("kind", self.default_kind)
        self.sent = fields.get("sent", "never")
        self.attempts = fields.get("attempts", 0)
        self.route = fields.get("route")
        self.cluster = fields.get("cluster")
        self.endpoint = fields.get("endpoint")
        self.retry_after = fields.get("retry_after")

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._message, self._fields())

    def _fields(self) -> dict[str, Any]:
        names = ("kind", "sent", "attempts", "route", "cluster", "endpoint", "retry_after")
        return {name: getattr(self, name) for name in names}


class ConfigError(MeshError, ValueError):
    """A configuration was refused; nothing changed. `diagnostics` has every reason."""

    default_kind = "config"

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.diagnostics: list[Diagnostic] = list(fields.get("diagnostics", ()))

    def _fields(self) -> dict[str, Any]:
        return {**super()._fields(), "diagnostics": self.diagnostics}


class UsageError(MeshError, ValueError):
    """The request itself is not valid: no host, a bad header, a body over its limit."""

    default_kind = "bad_request"


class ForkedError(MeshError, RuntimeError):
    """An object of the parent process was used in a forked child. A `Mesh` itself never raises it."""

    default_kind = "forked"


class ClosedError(MeshError, RuntimeError):
    """The mesh was closed, or is draining."""

    default_kind = "closed"


class InternalError(MeshError, RuntimeError):
    """A defect of the library."""


class CallCancelled(MeshError):
    """The call was given up."""

    default_kind = "cancelled"


class TransportError(MeshError, OSError):
    """The network, TLS, or the peer."""

    default_kind = "tls"


class ConnectError(TransportError, ConnectionError):
    """The connection could not be opened."""

    default_kind = "connect"


class ConnectTimeout(TransportError, TimeoutError):
    """The connection was not open in time."""

    default_kind = "connect_timeout"


class ReadTimeout(TransportError, TimeoutError):
    """An attempt ran out of time and no retry was left."""

    default_kind = "attempt_timeout"


class DeadlineExceeded(TransportError, TimeoutError):
    """The whole request ran out of time."""

    default_kind = "timeout"


class ProtocolError(TransportError):
    """The peer spoke malformed HTTP."""

    default_kind = "protocol"


class PeerIdentityError(TransportError, PermissionError):
    """The peer is not who the configuration says it must be."""

    default_kind = "peer_identity"


class RemoteReset(TransportError, ConnectionResetError):
    """The peer closed or reset the connection or the stream."""

    default_kind = "reset"


class Rejected(MeshError):
    """The mesh refused the call on this side; nothing was sent."""

    default_kind = "overloaded"


class CircuitOpen(Rejected):
    """The circuit breaker is open on every usable endpoint."""

    default_kind = "circuit_open"


class RateLimited(Rejected):
    """A rate limit was exceeded; `retry_after` says for how long."""

    default_kind = "rate_limited"


class Overloaded(Rejected):
    """A concurrency limit was full."""


class Denied(Rejected, PermissionError):
    """Policy refused the request."""

    default_kind = "denied"


class NoEndpoint(Rejected):
    """The cluster has no endpoint that may be used now."""

    default_kind = "no_endpoint"


class NoRoute(Rejected, LookupError):
    """No route matched, or it names a cluster that does not exist."""

    default_kind = "no_route"


_CLASSES: dict[str, type[MeshError]] = {
    "no_route": NoRoute,
    "no_cluster": NoRoute,
    "no_endpoint": NoEndpoint,
    "connect": ConnectError,
    "connect_timeout": ConnectTimeout,
    "tls": TransportError,
    "peer_identity": PeerIdentityError,
    "connection_closed": RemoteReset,
    "reset": RemoteReset,
    "protocol": ProtocolError,
    "timeout": DeadlineExceeded,
    "attempt_timeout": ReadTimeout,
    "overloaded": Overloaded,
    "circuit_open": CircuitOpen,
    "rate_limited": RateLimited,
    "denied": Denied,
    "check_denied": Denied,
    "check_failed": Denied,
    "limit_failed": Rejected,
    "unauthenticated": Denied,
    "bad_request": UsageError,
    "body_too_large": UsageError,
    "cancelled": CallCancelled,
    "draining": ClosedError,
    "closed": ClosedError,
    "forked": ForkedError,
    "config": ConfigError,
    "internal": InternalError,
}


def make(kind: str, message: str, fields: dict[str, Any]) -> MeshError:
    """The exception for an error kind; called by the native module."""
    return _CLASSES.get(kind, MeshError)(message, kind=kind, **fields)


def config_error(message: str, diagnostics: list[Diagnostic]) -> ConfigError:
    """The exception for a refused configuration; called by the native module."""
    return ConfigError(message, diagnostics=diagnostics)


def _rebuild(cls: type[MeshError], message: str, fields: dict[str, Any]) -> MeshError:
    return cls(message, **fields)
