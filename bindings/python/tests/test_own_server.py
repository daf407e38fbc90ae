"""A server of one's own behind the mesh's check: the same verdicts under ASGI and WSGI, over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import apps
import mesh
import pytest
from conftest import CLAIMS, END_USERS, TOKEN, config, free_port, served
from servers import LISTENER, Serving, eventually, own_server

Serve = Callable[..., Serving]
NO_ADMIN = "policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*] } ] } }"
ECHO = (apps.echo, apps.asgi_echo)


@pytest.fixture(params=["uvicorn", "hypercorn", "wsgiref"])
def serve(request: Any) -> Iterator[Serve]:
    """`serve(text, (wsgi, asgi))` serves the application that the server can run."""
    with ExitStack() as stack:

        def start(text: str = "", both: tuple[Any, Any] = ECHO, **options: Any) -> Serving:
            return stack.enter_context(own_server(request.param, both, text, **options))

        yield start


def never() -> tuple[Any, Any]:
    """Applications that must not be called."""

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        raise AssertionError("it was called")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called")

    return wsgi, asgi


def test_an_admitted_request_reaches_the_application_and_is_recorded(serve: Serve) -> None:
    serving = serve()
    answer = serving.ask("/books?page=2", "POST", [("X-A", "1")], b"x" * 1000)
    facts = json.loads(answer.body)
    assert (facts["method"], facts["path"], facts["query"], facts["length"]) == (
        "POST",
        "/books",
        "page=2",
        1000,
    )
    assert (facts["peer"], facts["claims"]) == (None, None)
    assert len(facts["trace"]) == 32
    names = {name.lower().replace("http_", "").replace("_", "-") for name in facts["headers"]}
    assert {"x-a", "x-request-id", "host"} <= names
    serving.comes_to(1, "istio_requests_total", 'response_code="200"')
    serving.comes_to(1, "istio_requests_total", 'reporter="destination"')
    serving.comes_to(len(answer.body), "istio_response_bytes_sum")
    serving.comes_to(1000, "istio_request_bytes_sum")


def test_a_refused_request_never_reaches_the_application(serve: Serve) -> None:
    serving = serve(NO_ADMIN, never())
    for method in ("GET", "HEAD", "POST"):
        answer = serving.ask("/admin", method, body=b"x" * 100 if method == "POST" else None)
        assert (answer.status, answer.headers["content-length"], answer.body) == (403, "0", b"")
    serving.comes_to(3, "istio_requests_total", 'response_code="403"')


def test_no_spelling_of_a_path_dodges_a_rule(serve: Serve) -> None:
    seen: list[str] = []

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return apps.echo(environ, start_response)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await apps.asgi_echo(scope, receive, send)

    serving = serve(NO_ADMIN, (wsgi, asgi))
    for target in (
        "/admin",
        "//admin",
        "/%61dmin",
        "/a/../admin",
        "/./admin",
        "/a/..%2fadmin",
        "/a/%2e%2e/admin",
        "/a/..;/admin",
        "/admin%2f..",
        "/admin/..%2f",
        "http://app/admin",
        "http://app/a/../admin?x=1",
    ):
        status = serving.ask(target).status
        # Where a server only tells the decoded path, `/admin/..` is what it says: the root.
        assert status in (403, 307) or (target in ("/admin%2f..", "/admin/..%2f") and seen == ["/"]), target
        seen.clear()


def test_no_spelling_of_a_host_dodges_a_rule(serve: Serve) -> None:
    serving = serve("policy: { access: { rules: [ { name: no, action: deny, hosts: [admin.test] } ] } }")
    for host in ("admin.test", "ADMIN.test", "admin.test:80", "admin.test."):
        assert serving.ask("/", headers=[("Host", host)]).status == 403, host
    # Servers differ in what they make of two hosts; what the application reads is what was judged.
    for target, hosts in (
        ("/", ["shop.test", "admin.test"]),
        ("/", ["admin.test", "shop.test"]),
        ("http://admin.test/", ["shop.test"]),
        ("http://shop.test/", ["admin.test"]),
    ):
        answer = serving.ask(target, headers=[("Host", host) for host in hosts])
        if answer.status == 200:
            headers = json.loads(answer.body)["headers"]
            assert [value for name, value in headers.items() if "host" in name.lower()] != ["admin.test"]
        else:
            assert answer.status in (400, 403)


def test_the_application_sees_the_path_that_was_judged(serve: Serve) -> None:
    serving = serve(NO_ADMIN)
    for target, path in (
        ("/a/../books", "/books"),
        ("/%62ooks", "/books"),
        ("/caf%C3%A9", "/café"),
        ("/a%2Fb", "/a/b"),
    ):
        seen = json.loads(serving.ask(target).body)["path"]
        # WSGI has bytes of any encoding in text.
        assert path in (seen, seen.encode("latin-1", "replace").decode("utf-8", "replace")), target


def test_a_target_that_is_none_is_refused(serve: Serve) -> None:
    serving = serve("", never())
    assert serving.ask("/a?<b>").status == 400


def test_claims_come_from_a_verified_token_or_not_at_all(serve: Serve) -> None:
    seen: list[Any] = []

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.append(mesh.claims())
        return apps.echo(environ, start_response)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(mesh.claims())
        await apps.asgi_echo(scope, receive, send)

    serving = serve(END_USERS, (wsgi, asgi))
    facts = json.loads(serving.ask("/", headers=[("Authorization", f"Bearer {TOKEN}")]).body)
    assert facts["claims"] == CLAIMS
    assert "authorization" not in str(facts["headers"]).lower()
    assert json.loads(serving.ask("/").body)["claims"] is None
    header, body, signature = TOKEN.split(".")
    none = "eyJhbGciOiJub25lIn0"  # {"alg":"none"}
    for hostile in (f"{header}.{body}.{signature[:-4]}AAAA", f"{none}.{body}.", f"{header}.{body}"):
        refused = serving.ask("/", headers=[("Authorization", f"Bearer {hostile}")])
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
    assert seen == [CLAIMS, None]
    assert mesh.claims() is None


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_trace_request_id_and_deadline_go_on_to_what_the_application_calls(serve: Serve) -> None:
    def backend(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        context = environ["mesh.context"]
        start_response("200 OK", [])
        facts = [context.trace_id, environ["HTTP_X_REQUEST_ID"], context.remaining]
        return [json.dumps(facts).encode()]

    text = config(free_port())
    with served(text, backend), mesh.Mesh.from_yaml(text) as onward:

        def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
            first = onward.client().get("http://app/").read()
            start_response("200 OK", [])
            yield first + b"\n"
            yield onward.client().get("http://app/").read()  # while the body is under way

        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            first = await (await onward.aclient().get("http://app/")).aread()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": first + b"\n", "more_body": True})
            second = await (await onward.aclient().get("http://app/")).aread()
            await send({"type": "http.response.body", "body": second})

        serving = serve("", (wsgi, asgi))
        with mesh.Mesh.from_yaml(config(serving.port)) as caller, caller.client() as client:
            headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "seven"}
            for line in client.get("http://app/", headers=headers, timeout=9.0).read().splitlines():
                trace, request_id, remaining = json.loads(line)
                assert (trace, request_id) == (TRACE, "seven")
                assert 0 < remaining <= 9.0
    assert mesh.current() is None


def test_a_rate_limit_says_when_to_come_back(serve: Serve) -> None:
    serving = serve("policy: { rate_limits: [ { name: all, max_tokens: 2, fill_interval: 1h } ] }")
    assert [serving.ask("/").status for _ in range(3)] == [200, 200, 429]
    assert int(serving.ask("/").headers["retry-after"]) > 1000


def test_a_place_is_held_until_the_body_has_ended(serve: Serve) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        if environ["PATH_INFO"] == "/slow":
            begun.set()
            assert go_on.wait(20)
        yield b"b"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        if scope["path"] == "/slow":
            begun.set()
            assert await asyncio.to_thread(go_on.wait, 20)
        await send({"type": "http.response.body", "body": b"b"})

    listener = "concurrency: { max_requests: 1, queue: { max_requests: 0 } }"
    serving = serve(LISTENER.replace("name: inbound", f"name: inbound, {listener}"), (wsgi, asgi))
    bodies: list[bytes] = []
    slow = threading.Thread(target=lambda: bodies.append(serving.ask("/slow").body))
    slow.start()
    assert begun.wait(20)
    assert serving.ask("/").status == 503
    go_on.set()
    slow.join(20)
    assert bodies == [b"ab"]
    eventually(lambda: serving.ask("/").status == 200)


def test_health_is_answered_by_the_mesh(serve: Serve) -> None:
    serving = serve(LISTENER.replace("name: inbound", "name: inbound, health: { path: /healthz }"), never())
    assert serving.ask("/healthz").body == b"SERVING\n"
    head = serving.ask("/healthz", "HEAD")
    assert (head.headers["content-length"], head.body) == ("8", b"")
    serving.mesh.set_serving(False)
    assert serving.ask("/healthz").status == 503


def test_an_application_that_fails_is_an_error_of_ours_and_no_secret_of_its(
    serve: Serve, caplog: Any
) -> None:
    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/late":
            start_response("200 OK", [("Content-Length", "6")])
            return _breaking()
        raise RuntimeError("the disk is full")

    def _breaking() -> Iterator[bytes]:
        yield b"abc"
        raise RuntimeError("the disk is full")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            headers = [(b"content-length", b"6")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise RuntimeError("the disk is full")

    serving = serve("", (wsgi, asgi))
    answer = serving.ask("/")
    assert answer.status == 500
    assert b"disk" not in answer.body
    serving.comes_to(1, "istio_requests_total", 'response_code="500"')
    with pytest.raises((http.client.HTTPException, OSError)):
        serving.ask("/late")
    serving.comes_to(1, "istio_requests_total", 'response_code="200"')
    serving.comes_to(3, "istio_response_bytes_sum")
    serving.comes_to(0, "libmesh_requests_in_flight")


class _Policy(BaseHTTPRequestHandler):
    """A server of Envoy's HTTP check: 403 for a body with `evil`, else a header."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        asked: list[tuple[str, bytes]] = self.server.asked  # type: ignore[attr-defined]
        asked.append((self.path, body))
        self.send_response(403 if b"evil" in body else 200)
        self.send_header("x-user", "seven")
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def policy_server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Policy) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(20)


def checked(server: ThreadingHTTPServer, extra: str) -> str:
    return f"""
clusters: [ {{ name: opa, endpoints: [ {{ address: "127.0.0.1:{server.server_port}" }} ] }} ]
policy:
  checks:
    - {{ name: opa, cluster: opa, timeout: 20s, {extra} }}
"""


def test_a_check_is_told_the_body_and_the_application_still_reads_all_of_it(
    serve: Serve, policy_server: ThreadingHTTPServer
) -> None:
    terms = "http: { allowed_upstream_headers: [x-user] }, with_request_body: { max_request_bytes: 10"
    asked: list[tuple[str, bytes]] = policy_server.asked  # type: ignore[attr-defined]
    serving = serve(checked(policy_server, terms + ", allow_partial_message: true }"))
    body = b"0123456789" * 20_000
    facts = json.loads(serving.ask("/a", "POST", body=body).body)
    assert (facts["length"], facts["body"]) == (200_000, body[:1000].decode())
    assert "seven" in facts["headers"].values()
    assert json.loads(serving.ask("/b", "POST", body=b"short").body)["body"] == "short"
    assert json.loads(serving.ask("/c").body)["length"] == 0
    assert serving.ask("/d", "POST", body=b"evil").status == 403
    assert asked == [("/a", body[:10]), ("/b", b"short"), ("/c", b""), ("/d", b"evil")]
    serving.comes_to(200_005, "istio_request_bytes_sum", 'reporter="destination"')


def test_a_body_that_is_too_long_for_its_check_goes_no_further(
    serve: Serve, policy_server: ThreadingHTTPServer
) -> None:
    terms = "http: {}, with_request_body: { max_request_bytes: 10 }"
    serving = serve(checked(policy_server, terms))
    assert serving.ask("/a", "POST", body=b"0123456789").status == 200
    assert serving.ask("/a", "POST", body=b"0123456789x").status == 413


def test_checks_change_what_the_application_sees_and_what_is_answered(
    serve: Serve, policy_server: ThreadingHTTPServer
) -> None:
    terms = "http: { allowed_upstream_headers: [x-user], allowed_client_headers_on_success: [x-user] }"
    serving = serve(checked(policy_server, terms))
    answer = serving.ask("/a", headers=[("X-User", "somebody")])
    facts = json.loads(answer.body)
    assert [value for name, value in facts["headers"].items() if "user" in name.lower()] == ["seven"]
    assert answer.headers["x-user"] == "seven"


def test_a_response_that_streams_is_passed_on_piece_by_piece(serve: Serve) -> None:
    go_on = threading.Event()

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        yield b"abc"
        assert go_on.wait(20)
        yield b"def"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        assert await asyncio.to_thread(go_on.wait, 20)
        await send({"type": "http.response.body", "body": b"def"})

    serving = serve("", (wsgi, asgi))
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read(3) == b"abc"
    assert serving.counted("libmesh_requests_in_flight") == 1
    go_on.set()
    assert response.read() == b"def"
    connection.close()
    serving.comes_to(6, "istio_response_bytes_sum")


def test_a_client_that_leaves_is_recorded_as_one_that_left(serve: Serve) -> None:
    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            yield b"x" * 10_000

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        gone = asyncio.create_task(until_gone())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await asyncio.sleep(0)

    serving = serve("", (wsgi, asgi))
    with socket.create_connection(("127.0.0.1", serving.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        assert connection.recv(1000)
    serving.comes_to(1, "istio_requests_total", 'response_flags="DC"')
    serving.comes_to(0, "libmesh_requests_in_flight")


def test_who_is_served_during_a_drain_is_told_to_go_elsewhere(
    serve: Serve, request: pytest.FixtureRequest
) -> None:
    """WSGI leaves that to the server, and the standard library's would fail if it was said."""
    running: list[mesh.Mesh] = []

    def wsgi(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        running[0].drain(0.0)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await running[0].adrain(0.0)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    serving = serve("", (wsgi, asgi))
    running.append(serving.mesh)
    answer = serving.ask("/")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["connection"] == (None if "wsgiref" in request.node.name else "close")


def test_a_closed_mesh_admits_nobody(serve: Serve) -> None:
    serving = serve("", never())
    serving.mesh.close()
    assert serving.ask("/").status == 503


def test_a_listener_that_does_not_exist_is_an_error_at_once() -> None:
    with mesh.Mesh.from_yaml(LISTENER) as m:
        for middleware in (mesh.AsgiMiddleware, mesh.WsgiMiddleware):
            with pytest.raises(mesh.ConfigError, match="elsewhere"):
                middleware(None, m, listener="elsewhere")


def wsgi_ok(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


async def asgi_ok(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def test_many_requests_leave_nothing_behind(serve: Serve) -> None:
    """Over kept connections, admitted and refused, answered and failed."""
    serving = serve(NO_ADMIN, (wsgi_ok, asgi_ok))
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    for number in range(4_000):
        connection.request("GET", "/admin" if number % 3 == 0 else "/")
        response = connection.getresponse()
        assert (response.status == 403) is (number % 3 == 0)
        response.read()
    connection.close()
    serving.comes_to(4_000, "istio_requests_total")
    serving.comes_to(1_334, "istio_requests_total", 'response_code="403"')
    serving.comes_to(0, "libmesh_requests_in_flight")
    assert serving.mesh.status()["requests_in_flight"] == 0


@pytest.mark.parametrize("target", ["/chat", "/admin"])
def test_a_body_that_no_check_gets_to_is_not_waited_for(
    serve: Serve, policy_server: ThreadingHTTPServer, target: str
) -> None:
    """Neither for a check of other paths, nor before the rules."""
    terms = "http: {}, match: { path: { exact: /upload } }, with_request_body: { max_request_bytes: 10 }"
    access = NO_ADMIN.removeprefix("policy: { ").removesuffix(" }")
    serving = serve(f"{checked(policy_server, terms)}  {access}", (wsgi_ok, asgi_ok))
    with socket.create_connection(("127.0.0.1", serving.port), timeout=20) as connection:
        connection.sendall(f"POST {target} HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n\r\n".encode())
        status = 200 if target == "/chat" else 403
        assert connection.recv(1000).split()[1] == str(status).encode()
    answer = serving.ask("/upload", "POST", body=b"evil")
    assert (answer.status, policy_server.asked) == (403, [("/upload", b"evil")])  # type: ignore[attr-defined]
