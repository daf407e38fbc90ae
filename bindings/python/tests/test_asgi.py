"""ASGI on the mesh's listener."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import apps
import mesh
import pytest
from conftest import config

Serve = Callable[..., mesh.Mesh]


def test_the_scope_is_complete(serve_wsgi: Serve) -> None:
    client = serve_wsgi(apps.asgi_echo).client()
    facts = client.post("http://app/%C3%A4%2Fb?x=%20", content=b"123", headers={"X-One": "1"}).json()
    assert facts["path"] == "/ä/b"
    assert facts["raw_path"] == "/%C3%A4%2Fb"
    assert facts["query"] == "x=%20"
    assert facts["length"] == 3
    assert facts["headers"]["x-one"] == "1"
    assert "host" in facts["headers"]
    assert len(facts["trace"]) == 32
    assert facts["peer"] is None


@pytest.mark.parametrize("app", [apps.echo, apps.asgi_echo])
def test_a_target_that_is_not_encoded_reads_as_if_it_was(serve_wsgi: Serve, port: int, app: Any) -> None:
    """No client should send one, some do; no application is to fail of it."""
    serve_wsgi(app)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        target = "/\u20ac?q=\u20ac".encode()
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    facts = json.loads(answer.partition(b"\r\n\r\n")[2])
    seen = [facts["path"], facts["query"]]
    if app is apps.echo:  # WSGI has bytes in text
        seen = [text.encode("latin-1").decode() for text in seen]
    assert seen == ["/\u20ac", "q=\u20ac"]


def test_bodies_stream_both_ways(serve_wsgi: Serve) -> None:
    client = serve_wsgi(apps.asgi_mirror).client()
    body = (b"x" * 64 * 1024 for _ in range(100))
    with client.stream("POST", "http://app/", content=body) as response:
        assert sum(map(len, response.iter_bytes())) == 100 * 64 * 1024


def test_lifespan_brackets_the_requests_and_shares_state(port: int) -> None:
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                events.append(message["type"])
                scope["state"]["answer"] = "42"
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        events.append("request")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["answer"].encode()})

    async def run() -> None:
        ready = asyncio.Event()
        server = mesh.Mesh.from_yaml(config(port))
        serving = asyncio.create_task(server.aserve(app, on_ready=lambda _: ready.set(), grace=0.2))
        await asyncio.wait_for(ready.wait(), 10)
        client_mesh = mesh.Mesh.from_yaml(config(port))
        response = await client_mesh.aclient().get("http://app/")
        assert await response.aread() == b"42"
        await client_mesh.aclose()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(run())
    assert events == ["lifespan.startup", "request", "lifespan.shutdown"]


def test_an_application_that_does_not_start_is_not_served(port: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="no database"):
        mesh.Mesh.from_yaml(config(port)).serve(app)


def test_a_caller_that_leaves_is_a_disconnect(serve_wsgi: Serve) -> None:
    seen = threading.Event()
    failed = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        seen.set()
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError:
            failed.set()
            raise

    with serve_wsgi(app).client().stream("GET", "http://app/") as response:
        assert next(response.iter_bytes()) == b"x"
    assert seen.wait(5)
    assert failed.wait(5), "send after a disconnect must raise OSError"


def test_an_application_that_fails_answers_500(serve_wsgi: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret")

    response = serve_wsgi(app).client().get("http://app/")
    assert response.status == 500
    assert "secret" not in response.text


def test_an_application_that_stops_half_way_is_a_reset(serve_wsgi: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    client = serve_wsgi(app).client()
    with pytest.raises(mesh.RemoteReset):
        client.get("http://app/").read()


def test_requests_run_side_by_side(serve_wsgi: Serve) -> None:
    arrived = 0
    met = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal arrived
        if scope["type"] != "http":
            raise NotImplementedError
        arrived += 1
        if arrived == 10:
            met.set()
        await asyncio.wait_for(met.wait(), 5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"met"})

    client_mesh = serve_wsgi(app)

    async def run() -> list[bytes]:
        client = client_mesh.aclient()

        async def one() -> bytes:
            return await (await client.get("http://app/")).aread()

        return await asyncio.gather(*(one() for _ in range(10)))

    assert asyncio.run(run()) == [b"met"] * 10


def test_trailers_arrive_after_the_body(serve_wsgi: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        headers = [(b"trailer", b"x-sum")]
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"4")]})

    response = serve_wsgi(app).client().get("http://app/", headers={"TE": "trailers"})
    assert response.read() == b"body"
    assert response.trailers.get("x-sum") == "4"


def test_the_kind_is_seen_from_the_application() -> None:
    from mesh._serve import is_asgi

    class Framework:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    class Other:
        def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
            return []

    assert is_asgi(apps.asgi_echo, "auto")
    assert is_asgi(Framework(), "auto")
    assert not is_asgi(apps.echo, "auto")
    assert not is_asgi(Other(), "auto")
    assert is_asgi(Other(), "asgi")


def test_a_cancelled_receive_loses_no_piece(serve_wsgi: Serve) -> None:
    """Frameworks cancel `receive` to look for a disconnect. The body stops until one was cancelled."""
    was_cancelled = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        body = b""
        while True:
            try:
                message = await asyncio.wait_for(receive(), 0.01)
            except asyncio.TimeoutError:
                was_cancelled.set()
                continue
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    client_mesh = serve_wsgi(app)

    async def body() -> AsyncIterator[bytes]:
        for number in range(20):
            yield b"%04d" % number
            if number == 2:
                assert await asyncio.to_thread(was_cancelled.wait, 20)
            await asyncio.sleep(0.02)

    async def run() -> bytes:
        return await (await client_mesh.aclient().post("http://app/", content=body())).aread()

    assert asyncio.run(run()) == b"".join(b"%04d" % number for number in range(20))


def test_aserve_runs_a_wsgi_application_too(port: int) -> None:
    async def run() -> None:
        ready = asyncio.Event()
        server = mesh.Mesh.from_yaml(config(port))
        serving = asyncio.create_task(server.aserve(apps.echo, on_ready=lambda _: ready.set(), grace=0.2))
        await asyncio.wait_for(ready.wait(), 10)
        client_mesh = mesh.Mesh.from_yaml(config(port))
        response = await client_mesh.aclient().get("http://app/x")
        assert (await response.json())["path"] == "/x"
        await client_mesh.aclose()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(serving, 10)

    asyncio.run(run())


def test_closing_the_mesh_ends_aserve(port: int) -> None:
    async def run() -> None:
        ready = asyncio.Event()
        server = mesh.Mesh.from_yaml(config(port))
        serving = asyncio.create_task(server.aserve(apps.asgi_echo, on_ready=lambda _: ready.set()))
        await asyncio.wait_for(ready.wait(), 10)
        await server.aclose()
        await asyncio.wait_for(serving, 10)

    asyncio.run(run())
