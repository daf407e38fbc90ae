"""The Python driver of the scenario corpus: the blocking client. The protocol is in tests/src/driver.rs."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import mesh


def main() -> None:
    job = json.load(sys.stdin)
    with mesh.Mesh.from_file(job["config"]) as opened:
        for group in job["groups"]:
            time.sleep(group["pause_ms"] / 1000)
            run_at_once(
                [
                    lambda call=call: print_line(one(opened, call))
                    for call in group["requests"]
                ]
            )
        print_line({"metrics": opened.metrics_text()})


def run_at_once(tasks: list[Any]) -> None:
    if len(tasks) == 1:
        tasks[0]()
        return
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def one(opened: mesh.Mesh, call: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    outcome: dict[str, Any] = {"id": call["id"]}
    try:
        with opened.client().request(
            call["method"], call["url"], content=content(call), **options(call)
        ) as response:
            read(response, outcome)
    except mesh.MeshError as error:
        outcome |= {
            "error": error.kind,
            "attempts": error.attempts,
            "cluster": error.cluster,
            "endpoint": error.endpoint,
        }
    outcome["ms"] = int((time.monotonic() - started) * 1000)
    return outcome


def options(call: dict[str, Any]) -> dict[str, Any]:
    timeout = call.get("timeout_ms")
    return {
        "headers": [tuple(pair) for pair in call["headers"]],
        "timeout": None if timeout is None else timeout / 1000,
        "idempotent": call.get("idempotent"),
    }


def content(call: dict[str, Any]) -> Any:
    if call.get("chunks"):
        return (bytes.fromhex(chunk) for chunk in call["chunks"])
    body = call.get("body")
    return None if body is None else bytes.fromhex(body)


def read(response: mesh.Response, outcome: dict[str, Any]) -> None:
    outcome |= {
        "status": response.status,
        "attempts": response.attempts,
        "cluster": response.cluster,
        "endpoint": response.endpoint,
        "headers": response.headers.multi_items(),
    }
    body = b""
    try:
        for chunk in response.iter_bytes():
            body += chunk
    except mesh.MeshError as error:
        outcome["body_error"] = error.kind
    outcome["body"] = body.hex()
    outcome["trailers"] = response.trailers.multi_items()


if __name__ == "__main__":
    main()
