"""A Python program under uvicorn: says hello to the peer; under /claims, who the end user is and how often it was
called. `own_asgi.py mesh.yaml port`"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import mesh
import uvicorn

_calls = itertools.count(1)


async def hello(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    about = scope["extensions"]["mesh"]
    if scope["path"] == "/claims":
        told = json.dumps({"calls": next(_calls), "claims": about["claims"]})
    else:
        told = f"hello {about['peer_id'] or ''}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told.encode()})


if __name__ == "__main__":
    app = mesh.AsgiMiddleware(hello, mesh=sys.argv[1], listener="inbound")
    uvicorn.run(
        app, port=int(sys.argv[2]), lifespan="off", log_level="error", access_log=False
    )
