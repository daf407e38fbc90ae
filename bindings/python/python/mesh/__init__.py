"""A service mesh without the sidecar: one engine, linked into the application.

import mesh

with mesh.Mesh.from_file("mesh.yaml") as m, m.client() as client:
    print(client.get("http://reviews/reviews/7").json())

mesh.serve(app, "mesh.yaml")  # a WSGI or ASGI application on the mesh's listener
app.add_middleware(mesh.AsgiMiddleware, mesh="mesh.yaml")  # the same check under a server of your own
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mesh._asgi_middleware import AsgiMiddleware
from mesh._client import AsyncClient, Client
from mesh._context import claims, current
from mesh._errors import (
    CallCancelled,
    CircuitOpen,
    ClosedError,
    ConfigError,
    ConnectError,
    ConnectTimeout,
    DeadlineExceeded,
    Denied,
    Diagnostic,
    ForkedError,
    InternalError,
    MeshError,
    NoEndpoint,
    NoRoute,
    Overloaded,
    PeerIdentityError,
    ProtocolError,
    RateLimited,
    ReadTimeout,
    Rejected,
    RemoteReset,
    TransportError,
    UsageError,
)
from mesh._guard import Guard
from mesh._headers import Headers
from mesh._mesh import Mesh
from mesh._native import Context, __version__, validate
from mesh._own_server import Config
from mesh._response import AsyncResponse, Response
from mesh._wsgi_middleware import WsgiMiddleware

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mesh._serve import ServeOptions

__all__ = [
    "AsgiMiddleware",
    "AsyncClient",
    "AsyncResponse",
    "CallCancelled",
    "CircuitOpen",
    "Client",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "Context",
    "DeadlineExceeded",
    "Denied",
    "Diagnostic",
    "ForkedError",
    "Guard",
    "Headers",
    "InternalError",
    "Mesh",
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
    "Response",
    "TransportError",
    "UsageError",
    "WsgiMiddleware",
    "__version__",
    "claims",
    "current",
    "serve",
    "validate",
]


def serve(
    app: Any, config: Config | None = None, *, listener: str = "inbound", **options: Unpack[ServeOptions]
) -> None:
    """Serves a WSGI or ASGI application on the mesh's listener until Ctrl-C or SIGTERM.

    `config` is a mesh or a file; by default the file that `MESH_CONFIG` names, else `mesh.yaml`.
    """
    if config is None:
        config = os.environ.get("MESH_CONFIG", "mesh.yaml")
    mesh = config if isinstance(config, Mesh) else Mesh.from_file(config)
    mesh.serve(app, listener, **options)
