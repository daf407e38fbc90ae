"""Which inbound call the running code serves.

`mesh.serve` sets it around the application; the client reads it on the caller's thread when a call is made.
So trace and deadline go from inbound to outbound without application code, across `await`, tasks and
`asyncio.to_thread`. A plain thread starts with an empty context: run it in `contextvars.copy_context()`.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from mesh._native import Context

if TYPE_CHECKING:
    from mesh import _native

CURRENT: ContextVar[Context | None] = ContextVar("mesh.call", default=None)


def current() -> Context | None:
    """Trace id, peer and remaining time of the inbound call being served; None outside of one."""
    return CURRENT.get()


def claims_of(exchange: _native.Exchange) -> dict[str, Any] | None:
    """What the end user's verified token says; None without one."""
    text = exchange.claims_json
    if text is None:
        return None
    claims: dict[str, Any] = json.loads(text)
    return claims
