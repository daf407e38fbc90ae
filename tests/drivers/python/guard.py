"""The Python driver of the guard story: a blocking function, or a coroutine where an attempt is to be cut."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import mesh

ERRORS: dict[str, Exception] = {
    "rejected": KeyError("not there"),
    "failed": ValueError("never"),
    "transient": ConnectionResetError("gone"),
    "unprocessed": ConnectionRefusedError("nobody"),
    "throttled": mesh.RateLimited("too many"),
}


class Scripted:
    """A function whose attempts end as written."""

    def __init__(self, script: list[str]) -> None:
        self.script = script
        self.attempts = 0

    def next(self) -> str:
        self.attempts += 1
        return self.script.pop(0) if self.script else "failed"

    def blocking(self) -> None:
        outcome = self.next()
        if outcome != "success":
            raise ERRORS[outcome]

    async def awaited(self) -> None:
        outcome = self.next()
        if outcome == "timed_out":
            await asyncio.sleep(3600)
        elif outcome != "success":
            raise ERRORS[outcome]


def one(opened: mesh.Mesh, call: dict[str, Any]) -> dict[str, Any]:
    function = Scripted(list(call["attempts"]))
    guard = opened.guard(
        call["guard"], expected=(KeyError,), idempotent=call["idempotent"]
    )
    try:
        if "timed_out" in call["attempts"]:
            asyncio.run(guard(function.awaited)())
        else:
            guard(function.blocking)()
        result = "success"
    except mesh.MeshError as error:
        result = "own" if error in ERRORS.values() else error.kind
    except (LookupError, ValueError, OSError):
        result = "own"
    return {"attempts": function.attempts, "result": result}


def main() -> None:
    job = json.load(sys.stdin)
    with mesh.Mesh.from_file(job["config"]) as opened:
        for call in job["calls"]:
            print(json.dumps(one(opened, call)))
        print(json.dumps({"metrics": opened.metrics_text()}))


if __name__ == "__main__":
    main()
