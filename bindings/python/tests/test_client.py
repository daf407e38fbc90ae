"""The clients: round trips, bodies, streaming."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import apps
import mesh
import pytest
from conftest import config
from servers import counted, eventually

Serve = Callable[..., mesh.Mesh]


def test_a_response_says_what_the_mesh_did(serve_wsgi: Serve, port: int) -> None:
    with serve_wsgi(apps.echo).client() as client:
        response = client.get("http://app/a%20b?q=1", headers={"X-One": "1"})
        facts = response.json()
    assert response.status == 200
    assert (facts["method"], facts["path"], facts["query"]) == ("GET", "/a b", "q=1")
    assert facts["headers"]["HTTP_X_ONE"] == "1"
    assert response.attempts == 1
    assert response.cluster == "app"
    assert response.endpoint == f"127.0.0.1:{port}"
    assert response.revision >= 1
    assert response.peer_id is None


def test_headers_have_no_case_and_several_values(serve_wsgi: Serve) -> None:
    response = serve_wsgi(apps.echo).client().get("http://app/")
    assert response.headers["x-many"] == "1, 2"
    assert response.headers.get_list("X-MANY") == ["1", "2"]
    assert "x-MANY" in response.headers
    assert "absent" not in response.headers


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        ({"content": b"raw"}, "raw", None),
        ({"content": "text"}, "text", None),
        ({"content": bytearray(b"array")}, "array", None),
        ({"json": {"a": 1}}, '{"a":1}', "application/json"),
        ({"content": [b"one", b"two"]}, "onetwo", None),
        ({"content": io.BytesIO(b"a\nfile")}, "a\nfile", None),
        ({"content": None}, "", None),
    ],
)
def test_a_body_arrives_whatever_form_it_had(
    serve_wsgi: Serve, options: dict[str, Any], body: str, content_type: str | None
) -> None:
    facts = serve_wsgi(apps.echo).client().post("http://app/", **options).json()
    assert facts["body"] == body
    if content_type:
        assert facts["headers"]["CONTENT_TYPE"] == content_type


def test_json_and_content_together_are_a_mistake(serve_wsgi: Serve) -> None:
    with pytest.raises(ValueError, match="not both"):
        serve_wsgi(apps.echo).client().post("http://app/", content=b"x", json={})


def test_every_method_has_its_name(serve_wsgi: Serve) -> None:
    client = serve_wsgi(apps.echo).client()
    for name in ("get", "post", "put", "patch", "delete"):
        assert getattr(client, name)("http://app/").json()["method"] == name.upper()
    assert client.head("http://app/").read() == b""


PIECE = b"x" * 64 * 1024
MORE_THAN_SOCKETS_HOLD = 256 * 1024 * 1024 // len(PIECE)


def test_a_response_may_stream_while_the_request_still_does(serve_wsgi: Serve) -> None:
    """Full duplex on one thread: each side stops the other, nobody deadlocks."""
    pulled = 0
    is_read = False

    def body() -> Iterator[bytes]:
        nonlocal pulled
        while not (is_read and pulled > 200) and pulled < MORE_THAN_SOCKETS_HOLD:
            pulled += 1
            yield PIECE

    client = serve_wsgi(apps.mirror).client()
    with client.stream("POST", "http://app/", content=body()) as response:
        assert pulled < MORE_THAN_SOCKETS_HOLD, "the body was pulled before anybody read the answer"
        is_read = True
        received = sum(map(len, response.iter_bytes()))
    assert received == pulled * len(PIECE)


def test_a_generator_that_fails_fails_the_call(serve_wsgi: Serve) -> None:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    client = serve_wsgi(apps.echo).client()
    with pytest.raises(KeyError, match="mine"):
        client.post("http://app/", content=body())
    assert client.get("http://app/").status == 200


def test_a_slow_reader_holds_the_server_back(serve_wsgi: Serve) -> None:
    sent = 0
    is_ended = threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        nonlocal sent
        start_response("200 OK", [])
        try:
            for _ in range(1000):
                yield b"x" * 64 * 1024
                sent += 1
        finally:
            is_ended.set()

    with serve_wsgi(app).client().stream("GET", "http://app/") as response:
        first = next(response.iter_bytes())
        assert first
        assert not is_ended.wait(0.5)
        assert sent < 900, "64 MB were sent to a caller that read one piece"
    assert is_ended.wait(5), "closing the response did not reach the server"


def test_responses_nobody_reads_give_their_connections_back(serve_wsgi: Serve) -> None:
    client = serve_wsgi(apps.echo, threads=2).client()
    for _ in range(50):
        client.get("http://app/")
    gc.collect()
    assert client.get("http://app/", timeout=5.0).status == 200


def test_a_closed_response_cannot_be_read(serve_wsgi: Serve) -> None:
    response = serve_wsgi(apps.echo).client().get("http://app/")
    response.close()
    assert response.is_closed
    with pytest.raises(ValueError, match="closed"):
        response.read()


def test_what_was_read_stays(serve_wsgi: Serve) -> None:
    with serve_wsgi(apps.echo).client().get("http://app/") as response:
        text = response.text
    assert response.read().decode() == text
    assert b"".join(response.iter_bytes()).decode() == text


def test_threads_share_a_client(serve_wsgi: Serve) -> None:
    client = serve_wsgi(apps.echo).client()
    results: list[int] = []

    def work() -> None:
        results.extend(client.get("http://app/").json()["length"] for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [0] * 160


def test_asyncio_round_trips(serve_wsgi: Serve) -> None:
    client_mesh = serve_wsgi(apps.echo)

    async def run() -> None:
        async with client_mesh.aclient() as client:
            response = await client.post("http://app/x", json=[1])
            assert response.status == 200
            assert (await response.json())["body"] == "[1]"
            assert response.text
            many = await asyncio.gather(*(client.get("http://app/") for _ in range(100)))
            assert {len(await one.aread()) > 0 for one in many} == {True}

    asyncio.run(run())
    asyncio.run(run())  # a second loop has a bridge of its own


def test_asyncio_streams_both_ways(serve_wsgi: Serve) -> None:
    """While nobody reads the answer the body is not pulled beyond what sockets hold; then all of it comes."""
    client_mesh = serve_wsgi(apps.mirror)
    pulled = 0
    is_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal pulled
        while not is_read and pulled < MORE_THAN_SOCKETS_HOLD:
            pulled += 1
            yield PIECE
            await asyncio.sleep(0)

    async def rests() -> None:
        seen = 0
        while seen != pulled:
            seen = pulled
            await asyncio.sleep(0.3)

    async def run() -> int:
        nonlocal is_read
        async with client_mesh.aclient() as client:
            async with client.stream("POST", "http://app/", content=body()) as response:
                await rests()
                assert pulled < MORE_THAN_SOCKETS_HOLD, "the body was pulled before anybody read the answer"
                is_read = True
                return sum([len(chunk) async for chunk in response.aiter_bytes()])

    received = asyncio.run(run())
    assert received == pulled * len(PIECE)


def test_an_async_generator_that_fails_fails_the_call(serve_wsgi: Serve) -> None:
    client_mesh = serve_wsgi(apps.echo)

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    async def run() -> None:
        with pytest.raises(KeyError, match="mine"):
            await client_mesh.aclient().post("http://app/", content=body())

    asyncio.run(run())


def test_cancelling_a_task_cancels_its_call(serve_wsgi: Serve) -> None:
    is_over = threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            is_over.wait(60)
        start_response("200 OK", [])
        return [b"slow"]

    client_mesh = serve_wsgi(app)

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client_mesh.aclient().get("http://app/slow"), 0.1)
        response = await client_mesh.aclient().get("http://app/quick")
        assert await response.aread() == b"slow"

    try:
        asyncio.run(run())
    finally:
        is_over.set()


def test_o18_a_cancelled_call_is_not_tried_again(serve_wsgi: Serve, port: int) -> None:
    seen: list[str] = []

    def broken(environ: apps.Environ, start_response: apps.Start) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("503 Service Unavailable", [])
        return []

    serve_wsgi(broken)
    no_breaker = "circuit_breaker: { consecutive_failures: 0, min_success_percent: 0 }"
    patient = "attempts: 1, conditions: [gateway-error], base: 2s, max: 2s, jitter: none"
    text = config(port, cluster=no_breaker)
    text = text.replace("attempts: 1, conditions: [connect-failure], base: 1ms, max: 2ms", patient)

    async def run() -> None:
        client = mesh.Mesh.from_yaml(text)
        began = len(asyncio.all_tasks())
        call = asyncio.create_task(client.aclient().get("http://app/cancelled"))
        # The second attempt is decided, and waits for its turn.
        await asyncio.to_thread(eventually, lambda: is_charged(client), client.metrics_text)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(asyncio.all_tasks()) == began
        # Longer than the cancelled one would have gone on.
        response = await client.aclient().get("http://app/control")
        assert response.status == 503
        await client.aclose()

    def is_charged(client: mesh.Mesh) -> bool:
        return 0 < counted(client.metrics_text(), "libmesh_retry_budget_balance") < 100

    asyncio.run(run())
    assert [seen.count("/cancelled"), seen.count("/control")] == [1, 2], seen


def test_a_thread_without_a_loop_keeps_its_queue_across_clients(serve_wsgi: Serve) -> None:
    client_mesh = serve_wsgi(apps.echo)
    for _ in range(3):
        with client_mesh.client() as client:
            assert client.get("http://app/").status == 200


def test_a_cancelled_read_closes_the_response(serve_wsgi: Serve) -> None:
    is_over = threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        is_over.wait(60)
        yield b"second"

    client_mesh = serve_wsgi(app)

    async def run() -> None:
        response = await client_mesh.aclient().get("http://app/")
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"first"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(pieces), 0.1)
        assert response.is_closed
        with pytest.raises(ValueError, match="closed"):
            await response.aread()

    try:
        asyncio.run(run())
    finally:
        is_over.set()


def test_a_server_that_resets_in_the_middle_of_a_big_body_kills_nobody(port: int) -> None:
    """A reset during a write is a SIGPIPE for whoever does not block it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen(8)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(1000)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for _ in range(20):  # a mesh each: a breaker would spare the server the rest
            with mesh.Mesh.from_yaml(config(port)) as client_mesh:
                with pytest.raises(mesh.TransportError):
                    client_mesh.client().post("http://app/", content=b"x" * 5_000_000)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_call_nobody_waits_for_leaves_nothing_behind(serve_wsgi: Serve) -> None:
    """Interrupted and abandoned calls must not fill the queue of their thread."""
    from mesh import _native, _wait

    native = serve_wsgi(apps.slow)._started(False)
    queue = _wait.thread_queue()
    for _ in range(5):
        request = _native.Request(("GET", "http://app/0.05"), [], None)
        native.call(queue, request)  # dropped at once
    time.sleep(0.5)
    assert queue.drain() == []
