"""A Python program under wsgiref: says hello to the peer; under /claims, who the end user is and how often it was
called. `own_wsgi.py mesh.yaml port`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import mesh
from server import hello


def seen(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Also says which path it saw."""

    def start(status: str, headers: list[tuple[str, str]]) -> Any:
        return start_response(status, [*headers, ("x-seen", environ["PATH_INFO"])])

    return hello(environ, start)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing of interest."""


if __name__ == "__main__":
    app = mesh.WsgiMiddleware(seen, mesh=sys.argv[1], listener="inbound")
    with make_server(
        "127.0.0.1", int(sys.argv[2]), app, handler_class=_Quiet
    ) as server:
        server.serve_forever()
