"""The Python server of the stories: says hello to the peer. `server.py mesh.yaml`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import mesh


def hello(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    peer = environ.get("mesh.peer_id") or ""
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"hello {peer}".encode()]


if __name__ == "__main__":
    mesh.serve(hello, sys.argv[1], listener="inbound")
