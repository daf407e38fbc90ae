"""The Python server of the stories: says hello to the peer; under /claims, who the end user is and how often it was
called. `server.py mesh.yaml`"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import mesh

_calls = itertools.count(1)


def hello(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/claims":
        start_response("200 OK", [("content-type", "application/json")])
        told = {"calls": next(_calls), "claims": environ["mesh.claims"]}
        return [json.dumps(told).encode()]
    peer = environ.get("mesh.peer_id") or ""
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"hello {peer}".encode()]


if __name__ == "__main__":
    mesh.serve(hello, sys.argv[1], listener="inbound")
