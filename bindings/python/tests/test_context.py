"""Trace and deadline go from inbound to outbound without application code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apps
import mesh
import pytest
from conftest import config, free_port, served

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def slow_ones() -> queue.SimpleQueue[float | None]:
    """What each request to /slow of `backend` has left when it begins."""
    return queue.SimpleQueue()


@pytest.fixture
def backend(slow_ones: queue.SimpleQueue[float | None]) -> Iterator[mesh.Mesh]:
    """A mesh that reaches a backend; /slow takes until the test is over, anything else says its trace."""
    is_over = threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        context = environ["mesh.context"]
        if environ["PATH_INFO"] == "/slow":
            slow_ones.put(context.remaining)
            is_over.wait(60)
        start_response("200 OK", [])
        facts = {"trace": environ["mesh.trace_id"], "remaining": context.remaining}
        return [json.dumps(facts).encode()]

    text = config(free_port())
    with served(text, app), mesh.Mesh.from_yaml(text) as client_mesh:
        yield client_mesh
        is_over.set()


def test_a_wsgi_handler_passes_its_trace_and_deadline_on(serve_wsgi: Any, backend: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        answer = backend.client().get("http://app/").json()
        current = mesh.current()
        assert current is not None
        answer["own"] = current.trace_id
        start_response("200 OK", [])
        return [json.dumps(answer).encode()]

    facts = serve_wsgi(app).client().get("http://app/", headers=HEADERS, timeout=5.0).json()
    assert facts["trace"] == facts["own"] == TRACE
    assert 0 < facts["remaining"] <= 5.0
    assert mesh.current() is None


def test_a_detached_call_does_not_inherit_the_deadline(serve_wsgi: Any, backend: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        facts = [backend.client().get("http://app/", detached=detached).json() for detached in (False, True)]
        start_response("200 OK", [])
        return [json.dumps(facts).encode()]

    inherited, own = serve_wsgi(app).client().get("http://app/", headers=HEADERS, timeout=5.0).json()
    assert inherited["remaining"] <= 5.0 < own["remaining"]
    assert inherited["trace"] == own["trace"] == TRACE


def test_an_asgi_handler_passes_its_trace_on_also_from_tasks(serve_wsgi: Any, backend: mesh.Mesh) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError

        async def call() -> Any:
            return await (await backend.aclient().get("http://app/")).json()

        one = await call()
        two, three = await asyncio.gather(asyncio.create_task(call()), call())
        four = await asyncio.to_thread(lambda: backend.client().get("http://app/").json())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([one, two, three, four]).encode()})

    answers = serve_wsgi(app).client().get("http://app/", headers=HEADERS).json()
    assert {answer["trace"] for answer in answers} == {TRACE}


def test_requests_do_not_see_each_others_context(serve_wsgi: Any, backend: mesh.Mesh) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await asyncio.sleep(0.05)
        answer = await (await backend.aclient().get("http://app/")).aread()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    client_mesh = serve_wsgi(app)

    async def run() -> None:
        async def one(number: int) -> None:
            trace = f"{number + 1:032x}"
            headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            response = await client_mesh.aclient().get("http://app/", headers=headers)
            assert (await response.json())["trace"] == trace

        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(run())


def test_an_inherited_deadline_ends_the_onward_call(
    serve_wsgi: Any, backend: mesh.Mesh, slow_ones: queue.SimpleQueue[float | None]
) -> None:
    kinds: list[str] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        try:
            backend.client().get("http://app/slow").read()
        except mesh.MeshError as error:
            kinds.append(error.kind)
        start_response("200 OK", [])
        return [b""]

    # Our time ends a little before the caller's, so that an answer may still reach him.
    with contextlib.suppress(TimeoutError):
        serve_wsgi(app).client().get("http://app/", timeout=5.0)
    inherited = slow_ones.get(timeout=20)
    assert inherited is not None
    assert 0 < inherited <= 5.0
    ends = time.monotonic() + 20
    while not kinds and time.monotonic() < ends:
        time.sleep(0.01)
    assert kinds == ["timeout"]
