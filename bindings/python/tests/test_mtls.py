"""Mutual TLS by the development CA."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import apps
import mesh
import pytest
from conftest import config, mtls, served


def test_both_ends_know_each_other(port: int, tmp_path: Path) -> None:
    with served(mtls(port, tmp_path, "app"), apps.echo):
        with mesh.Mesh.from_yaml(mtls(port, tmp_path, "caller")) as caller, caller.client() as client:
            response = client.post("http://app/", content=b"x" * 100_000)
            facts = response.json()
    assert facts["length"] == 100_000
    assert facts["peer"] == "spiffe://test.example/caller"
    assert response.peer_id == "spiffe://test.example/app"


def test_asgi_knows_the_peer(port: int, tmp_path: Path) -> None:
    async def run() -> None:
        caller = mesh.Mesh.from_yaml(mtls(port, tmp_path, "caller"))
        response = await caller.aclient().get("http://app/")
        facts = await response.json()
        assert facts["peer"] == "spiffe://test.example/caller"
        assert response.peer_id == "spiffe://test.example/app"
        await caller.aclose()

    with served(mtls(port, tmp_path, "app"), apps.asgi_echo):
        asyncio.run(run())


def test_the_wrong_server_is_a_permission_error(port: int, tmp_path: Path) -> None:
    with served(mtls(port, tmp_path, "app"), apps.echo):
        with mesh.Mesh.from_yaml(mtls(port, tmp_path, "caller", expected="other")) as caller:
            with pytest.raises(PermissionError) as caught:
                caller.client().get("http://app/")
    assert isinstance(caught.value, mesh.PeerIdentityError)
    assert caught.value.sent == "never"


def test_a_plaintext_caller_gets_nothing(port: int, tmp_path: Path) -> None:
    with served(mtls(port, tmp_path, "app"), apps.echo), mesh.Mesh.from_yaml(config(port)) as caller:
        with pytest.raises(mesh.TransportError):
            caller.client().get("http://app/").read()


def test_a_caller_of_another_authority_gets_nothing(port: int, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with (
        served(mtls(port, ours, "app"), apps.echo),
        mesh.Mesh.from_yaml(mtls(port, theirs, "caller")) as caller,
        pytest.raises(mesh.TransportError),
    ):
        caller.client().get("http://app/").read()


def test_policy_decides_who_may_call(port: int, tmp_path: Path) -> None:
    policy = """
policy:
  access:
    rules:
      - name: only-friend
        action: allow
        listeners: [inbound]
        principals: ["spiffe://test.example/friend"]
"""
    with served(mtls(port, tmp_path, "app") + policy, apps.echo):
        for name, status in (("friend", 200), ("stranger", 403)):
            with mesh.Mesh.from_yaml(mtls(port, tmp_path, name)) as caller:
                assert caller.client().get("http://app/").status == status


def test_http2_carries_streams_and_drops_connection_headers(port: int, tmp_path: Path) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [("Connection", "keep-alive"), ("Keep-Alive", "timeout=5")])
        yield environ["SERVER_PROTOCOL"].encode()
        while chunk := environ["wsgi.input"].read1(64 * 1024):
            yield chunk

    with served(mtls(port, tmp_path, "app"), app):
        with mesh.Mesh.from_yaml(mtls(port, tmp_path, "caller")) as caller, caller.client() as client:
            body = (b"x" * 64 * 1024 for _ in range(100))
            with client.stream("POST", "http://app/", content=body) as response:
                content = b"".join(response.iter_bytes())
            assert response.http_version == "2"
            assert "keep-alive" not in response.headers
    assert content == b"HTTP/2" + b"x" * 64 * 1024 * 100
