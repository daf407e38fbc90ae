"""What only ASGI has: websockets, mounts, trailers, cancellation, certificates by the server's word."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apps
import mesh
import pytest
import websockets
from conftest import config, free_port, mtls, python, served
from servers import (
    FRIENDS_ONLY,
    LISTENER,
    Serving,
    ask,
    counted,
    eventually,
    own_server,
    under_hypercorn,
    under_uvicorn,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from websockets.sync.client import connect

NO_ADMIN = "policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*, /api/admin*] } ] } }"
Messages = list[dict[str, Any]]


def drive(app: Any, scope: dict[str, Any], received: Sequence[dict[str, Any]] = ()) -> Messages:
    """Calls an application as a server would: what it receives is given, what it sends is returned."""
    sent: Messages = []
    waiting = [*received]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    base = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(asyncio.wait_for(app({**base, **scope}, receive, send), 20))
    return sent


def answering(status: int = 200, body: bytes = b"ok") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


async def socket_echo(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, sends back what comes, closes at `bye`; `/no` is turned away by the application."""
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 1000})
            return
        if message.get("text") == "break":
            raise RuntimeError("broken")
        await send({"type": "websocket.send", "text": f"{scope['path']}:{message.get('text')}"})


@pytest.fixture(params=["uvicorn", "hypercorn"])
def sockets(request: Any) -> Iterator[Serving]:
    with own_server(request.param, (None, socket_echo), NO_ADMIN) as serving:
        yield serving


def test_a_handshake_is_judged_like_any_request(sockets: Serving) -> None:
    for target in ("/admin", "//admin", "/a/../admin", "/%61dmin"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{sockets.port}{target}").close()
        assert refused.value.response.status_code == 403
    sockets.comes_to(4, "istio_requests_total", 'response_code="403"')


def test_a_websocket_is_recorded_from_its_handshake_to_its_end(sockets: Serving) -> None:
    with connect(f"ws://127.0.0.1:{sockets.port}/a/../room") as socket:
        assert socket.response is not None
        assert socket.response.headers["x-own"] == "1"
        socket.send("hello")
        assert socket.recv() == "/room:hello"
        assert sockets.counted("libmesh_requests_in_flight") == 1
        socket.send("bye")
    sockets.comes_to(1, "istio_requests_total", 'response_code="101"')
    sockets.comes_to(len("hello") + len("bye"), "istio_request_bytes_sum")
    sockets.comes_to(len("/room:hello"), "istio_response_bytes_sum")
    sockets.comes_to(0, "libmesh_requests_in_flight")


def test_a_websocket_that_its_client_closes_or_its_application_breaks_is_over(sockets: Serving) -> None:
    with connect(f"ws://127.0.0.1:{sockets.port}/room") as socket:
        socket.send("hello")
        assert socket.recv() == "/room:hello"
    sockets.comes_to(1, "istio_requests_total", 'response_code="101"')
    with connect(f"ws://127.0.0.1:{sockets.port}/room") as socket:
        socket.send("break")
        with pytest.raises(websockets.ConnectionClosedError):
            socket.recv()
    sockets.comes_to(2, "istio_requests_total", 'response_code="101"')
    with pytest.raises(websockets.InvalidStatus):
        connect(f"ws://127.0.0.1:{sockets.port}/no").close()
    sockets.comes_to(1, "istio_requests_total", 'response_code="403"')
    sockets.comes_to(0, "libmesh_requests_in_flight")


def test_a_websocket_that_its_client_gives_up_was_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with mesh.Mesh.from_yaml(LISTENER) as m:
        messages: Messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006}]
        assert drive(mesh.AsgiMiddleware(app, m), {"type": "websocket"}, messages) == []
        assert counted(m.metrics_text(), "istio_requests_total", 'response_flags="DC"') == 1


def test_a_server_without_denial_responses_closes_the_websocket() -> None:
    with mesh.Mesh.from_yaml(LISTENER + NO_ADMIN) as m:
        scope = {"type": "websocket", "path": "/admin", "extensions": {}}
        app = mesh.AsgiMiddleware(socket_echo, m)
        assert drive(app, scope, [{"type": "websocket.connect"}]) == [
            {"type": "websocket.close", "code": 1008}
        ]


async def _where(request: Request) -> JSONResponse:
    current = mesh.current()
    facts = {"path": request.url.path, "trace": current and current.trace_id, "claims": mesh.claims()}
    return JSONResponse(facts)


async def _file(request: Request) -> FileResponse:
    return FileResponse(__file__)


def test_starlette_adds_it_like_any_middleware() -> None:
    routes = [Route("/books", _where), Route("/file", _file), Route("/admin", _where)]
    with mesh.Mesh.from_yaml(LISTENER + NO_ADMIN) as m:
        app = Starlette(routes=routes)
        app.add_middleware(mesh.AsgiMiddleware, mesh=m, listener="inbound")
        port = free_port()
        with under_uvicorn(app, port):
            facts = json.loads(ask(port, "/x/../books").body)
            assert (facts["path"], facts["claims"]) == ("/books", None)
            assert len(facts["trace"]) == 32
            assert ask(port, "/x/../admin").status == 403
            assert ask(port, "/nowhere").status == 404
            content = Path(__file__).read_bytes()
            assert ask(port, "/file").body == content
            eventually(lambda: counted(m.metrics_text(), "istio_requests_total", 'response_code="200"') == 2)
            eventually(lambda: counted(m.metrics_text(), "istio_response_bytes_sum") >= len(content))


def test_a_mounted_application_is_judged_by_the_whole_path() -> None:
    """And what its mount does not hold, however it is spelled, is not its to answer."""
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await answering()(scope, receive, send)

    with mesh.Mesh.from_yaml(LISTENER + NO_ADMIN) as m:
        port = free_port()
        app = Starlette(routes=[Mount("/api", mesh.AsgiMiddleware(inner, m))])
        with under_uvicorn(app, port):
            assert [ask(port, target).status for target in ("/api/books", "/api/admin")] == [200, 403]
            assert ask(port, "/api/x/../admin").status == 403
            # The rule is about the whole path, so `/admin` of the mount would be another's.
            assert ask(port, "/api/../secret").status == 404
    assert seen == ["/api/books"]


@pytest.mark.parametrize("under", [under_uvicorn, under_hypercorn])
def test_rules_name_the_root_path_whether_or_not_its_server_does(under: Any) -> None:
    """uvicorn puts `root_path` before the path, hypercorn leaves it out."""
    with mesh.Mesh.from_yaml(
        LISTENER + "policy: { access: { rules: [ { name: a, action: deny, paths: [/api/admin*] } ] } }"
    ) as m:
        routes = [Route("/books", _where), Route("/admin", _where)]
        app = Starlette(routes=routes)
        app.add_middleware(mesh.AsgiMiddleware, mesh=m)
        port = free_port()
        with under(app, port, root_path="/api"):
            assert ask(port, "/books").status == 200
            assert ask(port, "/x/../books").status == 200
            for target in ("/admin", "//admin", "/x/../admin", "/api/../admin", "/../admin"):
                assert ask(port, target).status in (403, 404), target


def test_a_path_that_an_outer_layer_changed_is_the_one_that_is_judged() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], scope["raw_path"]))
        await answering()(scope, receive, send)

    with mesh.Mesh.from_yaml(LISTENER + NO_ADMIN) as m:
        middleware = mesh.AsgiMiddleware(app, m)
        assert drive(middleware, {"path": "/admin", "raw_path": b"/books"})[0]["status"] == 403
        assert drive(middleware, {"path": "/a b", "raw_path": b"/admin"})[0]["status"] == 200
        assert drive(middleware, {"path": "/caf\u00e9"})[0]["status"] == 200
    assert seen == [("/a b", b"/a%20b"), ("/caf\u00e9", b"/caf%C3%A9")]


CHECK = """
clusters: [ {{ name: opa, endpoints: [ {{ address: "127.0.0.1:{port}" }} ] }} ]
policy: {{ checks: [ {{ name: opa, cluster: opa, timeout: 20s, http: {{}},
  with_request_body: {{ max_request_bytes: 4, allow_partial_message: true }} }} ] }}
"""


def test_files_that_the_server_sends_are_counted(tmp_path: Path) -> None:
    """By extensions of servers, which are passed on."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": str(path)})
            return
        with path.open("rb") as file:
            kind = "http.response.zerocopysend"
            await send({"type": kind, "file": file, "offset": 2, "count": 3, "more_body": True})
            await send({"type": kind, "file": file, "offset": 5})

    with mesh.Mesh.from_yaml(LISTENER) as m:
        sent = [
            [
                message["type"].rpartition(".")[2]
                for message in drive(mesh.AsgiMiddleware(app, m), {"path": path})
            ]
            for path in ("/path", "/file")
        ]
        assert sent == [["start", "pathsend"], ["start", "zerocopysend", "zerocopysend"]]
        assert counted(m.metrics_text(), "istio_response_bytes_sum") == 10 + 8
        assert counted(m.metrics_text(), "istio_requests_total", 'response_code="200"') == 2


def test_what_a_check_looked_at_is_received_as_it_came() -> None:
    pieces: Messages = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"cdef", "more_body": True},
        {"type": "http.request", "body": b"gh", "more_body": False},
    ]
    seen: Messages = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["more_body"]:
            seen.append(await receive())
        await answering()(scope, receive, send)

    may_answer = threading.Event()

    def allow(environ: apps.Environ, start_response: apps.Start) -> list[bytes]:
        assert may_answer.wait(20)
        start_response("200 OK", [])
        return []

    port = free_port()
    with served(config(port), allow), mesh.Mesh.from_yaml(LISTENER + CHECK.format(port=port)) as m:
        middleware = mesh.AsgiMiddleware(app, m)
        may_answer.set()
        assert drive(middleware, {"method": "POST"}, pieces)[0]["status"] == 200
        assert seen == pieces
        may_answer.clear()
        # Who leaves before the check was told, or has answered, is not the application's.
        seen.clear()
        gone: Messages = [{"type": "http.disconnect"}]
        assert drive(middleware, {"method": "POST"}, pieces[:1] + gone)[0]["status"] == 400
        assert drive(middleware, {"method": "POST"}, pieces + gone) == []
        may_answer.set()
        assert seen == []
        labels = 'response_flags="DC"', 'reporter="destination"'
        eventually(lambda: counted(m.metrics_text(), "istio_requests_total", *labels) == 1)


def test_an_application_that_does_not_finish_has_failed_unless_its_client_left() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    with mesh.Mesh.from_yaml(LISTENER) as m:
        drive(mesh.AsgiMiddleware(silent, m), {"path": "/"})
        assert counted(m.metrics_text(), "istio_requests_total", 'response_code="500"') == 1
        drive(mesh.AsgiMiddleware(silent, m), {"path": "/begun"})
        assert counted(m.metrics_text(), "istio_requests_total", 'response_code="200"') == 1
        assert counted(m.metrics_text(), "istio_requests_total", 'response_flags="DC"') == 0


def test_a_server_that_says_by_an_error_that_its_client_left() -> None:
    async def run(m: mesh.Mesh) -> None:
        async def send(message: dict[str, Any]) -> None:
            raise OSError("gone")

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        with pytest.raises(OSError, match="gone"):
            await mesh.AsgiMiddleware(answering(), m)(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]

    with mesh.Mesh.from_yaml(LISTENER) as m:
        asyncio.run(run(m))
        assert counted(m.metrics_text(), "istio_requests_total", 'response_flags="DC"') == 1


def test_a_body_is_waited_for_no_longer_than_its_caller_waits() -> None:
    headers = [(b"content-length", b"4"), (b"x-envoy-expected-rq-timeout-ms", b"50")]
    with mesh.Mesh.from_yaml(LISTENER + CHECK.format(port=free_port())) as m:
        sent = drive(
            mesh.AsgiMiddleware(None, m), {"method": "POST", "headers": headers}
        )  # no body ever comes
        assert sent[0]["status"] == 504
        assert counted(m.metrics_text(), "istio_requests_total", 'response_code="504"') == 1


async def _finishes(gone: asyncio.Event, sending: Any) -> None:
    """Sends all of its response, and hears that the client is gone meanwhile."""
    await asyncio.gather(sending, gone.wait())


async def _stops(gone: asyncio.Event, sending: Any) -> None:
    """Stops sending as soon as it hears that the client is gone, as Starlette does."""
    task = asyncio.ensure_future(sending)
    await gone.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("ending", [_finishes, _stops])
def test_a_response_is_whole_when_its_server_says_so_before_it_returns(ending: Any) -> None:
    """hypercorn tells that the request is over, as `http.disconnect`, from inside of the last `send`."""

    async def run(m: mesh.Mesh) -> None:
        is_over, is_told = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                is_over.set()
                await is_told.wait()
                await asyncio.sleep(0)  # whoever was told runs first

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def listen() -> None:
                assert (await receive())["type"] == "http.disconnect"
                is_told.set()

            listening = asyncio.create_task(listen())
            await ending(is_told, answering()(scope, receive, send))
            await listening

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await asyncio.wait_for(mesh.AsgiMiddleware(app, m)(scope, receive, send), 20)  # type: ignore[arg-type]

    with mesh.Mesh.from_yaml(LISTENER) as m:
        asyncio.run(run(m))
        page = m.metrics_text()
        assert counted(page, "istio_requests_total", 'response_code="200"', 'response_flags="-"') == 1
        assert counted(page, "istio_response_bytes_sum") == 2


def test_a_streaming_response_under_hypercorn_is_recorded_as_whole() -> None:
    async def pieces(_: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    app = Starlette(routes=[Route("/", pieces)])
    with own_server("hypercorn", (None, app), "") as serving:
        for _ in range(20):
            assert serving.ask("/").body == b"ab"
        serving.comes_to(20, "istio_requests_total", 'response_code="200"', 'response_flags="-"')


def test_what_the_mesh_cannot_judge_does_not_reach_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called")

    with (
        mesh.Mesh.from_yaml(LISTENER) as m,
        pytest.raises(NotImplementedError, match="webtransport"),
    ):
        drive(mesh.AsgiMiddleware(app, m), {"type": "webtransport"})


def test_a_websocket_offers_the_protocols_that_were_judged() -> None:
    def allow(environ: apps.Environ, start_response: apps.Start) -> list[bytes]:
        start_response("200 OK", [("Sec-WebSocket-Protocol", "chat, log")])
        return []

    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["subprotocols"])
        await receive()
        await send({"type": "websocket.close"})

    port = free_port()
    check = CHECK.format(port=port).replace("{}", "{ allowed_upstream_headers: [sec-websocket-protocol] }")
    with served(config(port), allow), mesh.Mesh.from_yaml(LISTENER + check) as m:
        headers = [(b"sec-websocket-protocol", b"admin")]
        scope = {"type": "websocket", "headers": headers, "subprotocols": ["admin"]}
        drive(mesh.AsgiMiddleware(app, m), scope, [{"type": "websocket.connect"}])
    assert seen == [["chat", "log"]]


def test_an_address_with_a_zone_is_an_address() -> None:
    spec = "{ action: DENY, rules: [ { from: [ { source: { ipBlocks: ['fe80::/10'] } } ] } ] }"
    policies = f"policies: [ {{ metadata: {{ name: local }}, spec: {spec} }} ]"
    check = f"policy: {{ authorization: {{ {policies} }} }}"
    with mesh.Mesh.from_yaml(LISTENER + check) as m:
        middleware = mesh.AsgiMiddleware(answering(), m)
        clients = ("fe80::1%eth0", 4711), ("fd00::1", 4711)
        assert [drive(middleware, {"client": client})[0]["status"] for client in clients] == [403, 200]


def test_a_cancelled_task_gives_its_place_back() -> None:
    async def run(m: mesh.Mesh) -> None:
        begun = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError("nothing is sent")

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        middleware = mesh.AsgiMiddleware(app, m)
        task = asyncio.create_task(middleware(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
        await begun.wait()
        assert counted(m.metrics_text(), "libmesh_requests_in_flight") == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with mesh.Mesh.from_yaml(LISTENER) as m:
        asyncio.run(run(m))
        assert counted(m.metrics_text(), "libmesh_requests_in_flight") == 0
        assert counted(m.metrics_text(), "istio_requests_total", 'response_flags="DC"') == 1


def test_one_who_waits_for_a_place_is_forgotten_when_he_is_cancelled() -> None:
    listener = LISTENER.replace(
        "name: inbound",
        "name: inbound, concurrency: { max_requests: 1, queue: { max_requests: 9, max_wait: 60s } }",
    )

    async def run(m: mesh.Mesh) -> None:
        first_is_in, go_on = asyncio.Event(), asyncio.Event()
        served: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            served.append(scope["path"])
            first_is_in.set()
            await go_on.wait()
            await answering()(scope, receive, send)

        async def send(message: dict[str, Any]) -> None:
            """Nothing."""

        middleware = mesh.AsgiMiddleware(app, m)

        def one(path: str) -> asyncio.Task[None]:
            scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
            return asyncio.create_task(middleware(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]

        first, second, third = one("/1"), one("/2"), one("/3")
        await first_is_in.wait()
        await asyncio.sleep(0)  # the others run up to where they wait
        assert counted(m.metrics_text(), "libmesh_requests_in_flight") == 3
        second.cancel()
        go_on.set()
        await asyncio.gather(first, third)
        assert served == ["/1", "/3"]

    with mesh.Mesh.from_yaml(listener) as m:
        asyncio.run(run(m))
        assert counted(m.metrics_text(), "libmesh_requests_in_flight") == 0


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
@pytest.mark.parametrize("body", [b"", b"x" * 9])
def test_one_who_leaves_while_he_waits_for_a_place_never_gets_it(server: str, body: bytes) -> None:
    listener = LISTENER.replace(
        "name: inbound",
        "name: inbound, concurrency: { max_requests: 1, queue: { max_requests: 9, max_wait: 60s } }",
    )
    served: list[str] = []
    go_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        assert await asyncio.to_thread(go_on.wait, 20)
        await apps.asgi_echo(scope, receive, send)

    with own_server(server, (None, app), listener) as serving:
        answers: list[int] = []
        first, third = (
            threading.Thread(
                target=lambda path=path: answers.append(serving.ask(path, "POST", body=body).status)
            )
            for path in ("/1", "/3")
        )
        first.start()
        eventually(lambda: served == ["/1"])
        with socket.create_connection(("127.0.0.1", serving.port), timeout=20) as second:
            second.sendall(
                b"POST /2 HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            serving.comes_to(1, "libmesh_requests_waiting")
        serving.comes_to(0, "libmesh_requests_waiting")
        serving.comes_to(1, "istio_requests_total", 'response_flags="DC"')
        third.start()
        serving.comes_to(1, "libmesh_requests_waiting")
        go_on.set()
        first.join(20)
        third.join(20)
    assert (served, answers) == (["/1", "/3"], [200, 200])


def test_grpc_status_travels_in_trailers_over_http2() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/grpc")]
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        await send({"type": "http.response.body", "body": b"\0\0\0\0\0"})
        trailers = [(b"grpc-status", b"5")]
        await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-message", b"none")]})

    with own_server("hypercorn", (None, app), "") as serving:
        text = config(serving.port, cluster="protocol: http2")
        with mesh.Mesh.from_yaml(text) as caller, caller.client() as client:
            headers = {"content-type": "application/grpc", "te": "trailers"}
            response = client.post("http://app/shop.Books/List", headers=headers)
            assert response.read() == b"\0\0\0\0\0"
            assert response.trailers is not None
            assert (response.trailers["grpc-status"], response.trailers["grpc-message"]) == ("5", "none")
        serving.comes_to(1, "istio_requests_total", 'grpc_response_status="5"')


def leaf_of(directory: Path, name: str) -> str:
    """A certificate of the development CA, as its owner shows it in a handshake."""
    port = free_port()
    with served(mtls(port, directory, name), apps.echo):
        return ssl.get_server_certificate(("127.0.0.1", port))


def test_a_certificate_that_the_server_has_seen_proven_names_the_peer(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    identity = f"""
identity: {{ spiffe_id: spiffe://test.example/app, dev_ca: {{ directory: "{ours}", ttl: 1h }} }}
{FRIENDS_ONLY}
"""
    friend, stranger, foreign = leaf_of(ours, "friend"), leaf_of(ours, "stranger"), leaf_of(theirs, "friend")
    peers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = mesh.current()
        assert current is not None
        peers.append((scope["extensions"]["mesh"]["peer_id"], current.peer_id))
        await answering()(scope, receive, send)

    def status(middleware: Any, tls: dict[str, Any] | None) -> int:
        headers = [(b"x-forwarded-client-cert", b"URI=spiffe://test.example/friend")]
        scope = {"headers": headers, "extensions": {"tls": tls} if tls else {}}
        code: int = drive(middleware, scope)[0]["status"]
        return code

    with mesh.Mesh.from_yaml(LISTENER + identity) as m:
        m.start()
        middleware = mesh.AsgiMiddleware(app, m)
        assert status(middleware, {"client_cert_chain": [friend], "client_cert_error": None}) == 200
        unproven: list[dict[str, Any] | None] = [
            None,
            {"client_cert_chain": []},
            {"client_cert_chain": [stranger]},
            {"client_cert_chain": [foreign]},
            {"client_cert_chain": [friend], "client_cert_error": "it proved nothing"},
        ]
        for tls in unproven:
            assert status(middleware, tls) == 403
        named = mesh.AsgiMiddleware(app, m, peer_certificates=lambda _: [ssl.PEM_cert_to_DER_cert(friend)])
        assert status(named, None) == 200
        nobody = mesh.AsgiMiddleware(app, m, peer_certificates=lambda _: None)
        assert status(nobody, {"client_cert_chain": [friend]}) == 403
    assert peers == [("spiffe://test.example/friend",) * 2] * 2


QUIET = """
import asyncio, os, mesh
async def app(scope, receive, send):
    print(scope["type"])
m = mesh.Mesh.from_yaml("{version: 1, listeners: [{name: inbound}]}")
middleware = mesh.AsgiMiddleware(app, m)
asyncio.run(middleware({"type": "lifespan"}, None, None))
print(len(os.listdir("/proc/self/task")))
scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
asyncio.run(middleware(scope, None, None))
print(len(os.listdir("/proc/self/task")) > 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_nothing_starts_before_the_first_request() -> None:
    process = python(QUIET)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["lifespan", "1", "http", "True"], err
