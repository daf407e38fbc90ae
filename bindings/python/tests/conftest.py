"""Servers and configurations for the tests. Every server is `mesh.serve`, over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mesh
import pytest

TESTS = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def config(port: int, *, extra: str = "", cluster: str = "", listener: str = "") -> str:
    """One service `app` on `port`, and the listener that serves it. No test is about how fast it connects."""
    return f"""
version: 1
node: {{ service: app }}
defaults:
  connect_timeout: 20s
  retry: {{ attempts: 1, conditions: [connect-failure], base: 1ms, max: 2ms }}
clusters:
  - name: app
    endpoints: [ {{ address: "127.0.0.1:{port}" }} ]
    {cluster}
routes:
  - name: app
    hosts: [app]
    rules: [ {{ backends: [ {{ cluster: app }} ] }} ]
listeners:
  - name: inbound
    address: "127.0.0.1:{port}"
    {listener}
{extra}
"""


# Signed with the key that RFC 8037 A.1 publishes; it never ends.
TOKEN = (
    "eyJhbGciOiJFZERTQSJ9."
    "eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ."
    "qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6BA"
)
CLAIMS = {"iss": "test", "sub": "alice", "roles": ["buyer"]}
END_USERS = """
policy:
  end_users:
    - name: test
      issuer: test
      require_expiration: false
      jwks:
        inline: >-
          {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}
"""


def mtls(port: int, directory: Path, name: str, expected: str = "app") -> str:
    """Like `config`, with an identity called `name`; the server must be `expected`."""
    identity = f"""
identity:
  spiffe_id: spiffe://test.example/{name}
  dev_ca: {{ directory: "{directory}", ttl: 1h }}
"""
    server = f'tls: {{ mode: mutual, server_ids: ["spiffe://test.example/{expected}"] }}'
    return config(port, extra=identity, cluster=server, listener="tls: strict")


@contextmanager
def served(text: str, app: Any, **options: Any) -> Iterator[mesh.Mesh]:
    """Serves `app` in a thread while the block runs."""
    ready = threading.Event()
    failure: list[BaseException] = []
    server = mesh.Mesh.from_yaml(text)

    def run() -> None:
        try:
            server.serve(app, on_ready=lambda _: ready.set(), **options)
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        assert not failure, failure
        yield server
    finally:
        server.close(timeout=2.0)
        thread.join(10)
        assert not thread.is_alive(), "serve did not return after close"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serve_wsgi(port: int) -> Iterator[Callable[..., mesh.Mesh]]:
    """`serve_wsgi(app)` serves it and returns a mesh that calls it as http://app/."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(app: Any, extra: str = "", **options: Any) -> mesh.Mesh:
            stack.enter_context(served(config(port, extra=extra), app, **options))
            client = mesh.Mesh.from_yaml(config(port))
            stack.callback(client.close)
            return client

        yield start


def python(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Runs a script in an interpreter of its own, with `conftest` importable."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
