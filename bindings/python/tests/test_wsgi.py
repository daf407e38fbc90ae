"""WSGI on the mesh's listener."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apps
import mesh
import pytest
from conftest import config, served
from servers import counted, eventually

Serve = Callable[..., mesh.Mesh]


def test_the_environment_is_complete(serve_wsgi: Serve, port: int) -> None:
    seen: dict[str, Any] = {}

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    client = serve_wsgi(app).client()
    headers = [("Cookie", "a=1"), ("Cookie", "b=2"), ("X", "1"), ("X", "2")]
    assert client.put("http://app/%C3%A4?x=%20", content=b"123", headers=headers).status == 204
    assert seen["PATH_INFO"].encode("latin-1").decode() == "/ä"
    assert seen["QUERY_STRING"] == "x=%20"
    assert seen["REQUEST_METHOD"] == "PUT"
    assert seen["CONTENT_LENGTH"] == "3"
    assert seen["SERVER_PORT"] == str(port)
    assert seen["SERVER_PROTOCOL"].startswith("HTTP/")
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["HTTP_X"] == "1,2"
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["HTTP_HOST"]
    assert seen["wsgi.multithread"] is True
    assert len(seen["mesh.trace_id"]) == 32
    assert seen["mesh.peer_id"] is None


def test_input_reads_like_a_file(serve_wsgi: Serve) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        source: io.BufferedReader = environ["wsgi.input"]
        first, second, rest = source.readline(), source.read(3), source.readlines()
        start_response("200 OK", [])
        return [repr((first, second, rest, source.read())).encode()]

    text = serve_wsgi(app).client().post("http://app/", content=b"one\ntwo3\nfour\n").text
    assert text == repr((b"one\n", b"two", [b"3\n", b"four\n"], b""))


class _Closing:
    """An iterable that notes its `close`."""

    def __init__(self, chunks: list[bytes], failure: Exception | None = None) -> None:
        self.closed = threading.Event()
        self._chunks, self._failure = chunks, failure

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("failure", [None, RuntimeError("late")])
def test_close_is_called_whatever_happened(serve_wsgi: Serve, failure: Exception | None) -> None:
    output = _Closing([b"a", b"b"], failure)

    def app(environ: apps.Environ, start_response: apps.Start) -> Any:
        start_response("200 OK", [])
        return output

    client = serve_wsgi(app).client()
    if failure is None:
        assert client.get("http://app/").read() == b"ab"
    else:
        with pytest.raises(mesh.RemoteReset):
            client.get("http://app/").read()
    assert output.closed.wait(5)


def test_exc_info_replaces_a_head_that_was_not_sent(serve_wsgi: Serve) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        start_response("200 OK", [("X", "first")])
        try:
            raise RuntimeError("changed my mind")
        except RuntimeError:
            start_response("503 Sorry", [("X", "second")], sys.exc_info())
        return [b"sorry"]

    response = serve_wsgi(app).client().get("http://app/")
    assert (response.status, response.headers["x"], response.read()) == (503, "second", b"sorry")


def test_exc_info_after_the_head_was_sent_is_raised(serve_wsgi: Serve) -> None:
    raised: list[str] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"begun")
        try:
            raise RuntimeError("too late")
        except RuntimeError:
            try:
                start_response("500 No", [], sys.exc_info())
            except RuntimeError as error:
                raised.append(str(error))
                raise
        return []

    client = serve_wsgi(app).client()
    with pytest.raises(mesh.RemoteReset):
        client.get("http://app/").read()
    assert raised == ["too late"]


def test_an_application_that_fails_answers_500(serve_wsgi: Serve) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        raise RuntimeError("secret")

    response = serve_wsgi(app).client().get("http://app/")
    assert response.status == 500
    assert "secret" not in response.text


def test_an_application_without_start_response_answers_500(serve_wsgi: Serve) -> None:
    assert serve_wsgi(lambda environ, start: [b"x"], kind="wsgi").client().get("http://app/").status == 500


def test_the_written_length_is_kept(serve_wsgi: Serve) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        yield b"abc"
        yield b"def"

    response = serve_wsgi(app).client().get("http://app/")
    assert response.headers["content-length"] == "6"
    assert response.read() == b"abcdef"


def test_requests_run_side_by_side(serve_wsgi: Serve) -> None:
    together = threading.Barrier(4, timeout=5)

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        together.wait()
        start_response("200 OK", [])
        return [b"met"]

    client = serve_wsgi(app, threads=4).client()
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(client.get("http://app/").text)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert texts == ["met"] * 4


def test_more_than_the_backlog_is_refused_at_once(serve_wsgi: Serve) -> None:
    """The one that is served is held until somebody was refused."""
    is_refused = threading.Event()
    statuses: list[int] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        assert is_refused.wait(20)
        start_response("200 OK", [])
        return [b""]

    client_mesh = serve_wsgi(app, threads=1, backlog=1)

    def call() -> None:
        statuses.append(client_mesh.client().post("http://app/").status)
        if statuses[0] == 503:
            is_refused.set()

    threads = [threading.Thread(target=call) for _ in range(4)]  # fewer refusals than open a breaker
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses[0] == 503
    assert set(statuses) == {200, 503}


def test_a_caller_that_leaves_ends_the_output(serve_wsgi: Serve) -> None:
    is_over = threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 10_000
        finally:
            is_over.set()

    with serve_wsgi(app).client().stream("GET", "http://app/") as response:
        next(response.iter_bytes())
    assert is_over.wait(5)


def test_a_request_that_waited_past_its_deadline_is_not_run(port: int) -> None:
    """The one that is served is held until the server has given up the one that waits."""
    ran: list[str] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        ran.append(environ["PATH_INFO"])
        has_begun.set()
        assert may_end.wait(20)
        start_response("200 OK", [])
        return [b""]

    with served(config(port), app, threads=1) as server, mesh.Mesh.from_yaml(config(port)) as client_mesh:
        client = client_mesh.client()
        first = threading.Thread(target=lambda: client.get("http://app/first"))
        first.start()
        assert has_begun.wait(20)
        with pytest.raises(TimeoutError):
            client.get("http://app/second", timeout=3.0)
        eventually(
            lambda: counted(server.metrics_text(), "istio_requests_total", 'reporter="destination"') == 1,
            server.metrics_text,
        )
        may_end.set()
        first.join(20)
        assert client.get("http://app/third").status == 200
    assert ran == ["/first", "/third"]
