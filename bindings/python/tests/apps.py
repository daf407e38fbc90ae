"""Small WSGI and ASGI applications."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]


def echo(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Says what it got."""
    is_terminated = environ.get("wsgi.input_terminated")
    body = environ["wsgi.input"].read(-1 if is_terminated else int(environ.get("CONTENT_LENGTH") or 0))
    facts = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "length": len(body),
        "body": body[:1000].decode("latin-1"),
        "peer": environ["mesh.peer_id"],
        "claims": environ["mesh.claims"],
        "trace": environ["mesh.trace_id"],
        "headers": {name: value for name, value in environ.items() if name.startswith(("HTTP_", "CONTENT_"))},
    }
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Many", "1"), ("X-Many", "2")])
    return [json.dumps(facts).encode()]


def slow(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Takes its time: `/0.5` is half a second."""
    time.sleep(float(environ["PATH_INFO"].strip("/") or "30"))
    start_response("200 OK", [])
    return [b"slow"]


def slow_aloud(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Says that it begins, then takes its time."""
    print("begun", flush=True)
    return slow(environ, start_response)


def mirror(environ: Environ, start_response: Start) -> Iterator[bytes]:
    """Sends each piece back as it comes."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    while chunk := environ["wsgi.input"].read1(64 * 1024):
        yield chunk


async def asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what it got."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    facts = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "length": len(body),
        "body": body[:1000].decode("latin-1"),
        "peer": scope["extensions"]["mesh"]["peer_id"],
        "claims": scope["extensions"]["mesh"]["claims"],
        "trace": scope["extensions"]["mesh"]["trace_id"],
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
    }
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    )
    await send({"type": "http.response.body", "body": json.dumps(facts).encode()})


async def asgi_mirror(scope: Any, receive: Any, send: Any) -> None:
    """Sends each piece back as it comes."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"], "more_body": message["more_body"]})
        if not message["more_body"]:
            return


async def asgi_slow(scope: Any, receive: Any, send: Any) -> None:
    """Never answers within a test's patience, unless a path asks for less, as `slow`'s does."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await asyncio.sleep(float(scope["path"].strip("/") or "30"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"slow"})
