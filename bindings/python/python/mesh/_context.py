"""Which inbound call the running code serves.

`mesh.serve` and the middlewares set it around the application; the client reads it on the caller's thread
when a call is made.
So trace and deadline go from inbound to outbound without application code, across `await`, tasks and
`asyncio.to_thread`. A plain thread starts with an empty context: run it in `contextvars.copy_context()`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from mesh._native import Context

if TYPE_CHECKING:
    from mesh import _native

CURRENT: ContextVar[Context | None] = ContextVar("mesh.call", default=None)


def current() -> Context | None:
    """Trace id, peer and remaining time of the inbound call being served; None outside of one."""
    return CURRENT.get()


def claims() -> dict[str, Any] | None:
    """What the verified token of the end user says whose call is being served; None without one."""
    return _parsed(_CLAIMS.get())


def enter(call: _native.Exchange | _native.Ticket) -> Entered:
    """From here on, the running code serves `call`."""
    return CURRENT.set(call.context), _CLAIMS.set(call.claims_json)


def leave(entered: Entered) -> None:
    """It does no longer."""
    current, claims = entered
    with suppress(ValueError):  # a coroutine that is thrown away ends in another context, which never entered
        _CLAIMS.reset(claims)
        CURRENT.reset(current)


def facts_of(call: _native.Exchange | _native.Ticket) -> dict[str, Any]:
    """What the mesh tells an application about a call."""
    context = call.context
    return {
        "peer_id": context.peer_id if context else None,
        "claims": _parsed(call.claims_json),
        "trace_id": context.trace_id if context else None,
        "remaining": context.remaining if context else None,
    }


def _parsed(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    claims: dict[str, Any] = json.loads(text)
    return claims


Entered = tuple[Token[Context | None], Token[str | None]]
_CLAIMS: ContextVar[str | None] = ContextVar("mesh.claims", default=None)
