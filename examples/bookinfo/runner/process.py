"""Starting, asking and ending processes.

Invariant: what was started is ended, whatever happens: each program has a process group of its own, which
is killed when the run is over.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from world import ADMIN_PORT, Places, Program, command_line


class NotReady(Exception):
    """A program ended or was not ready in time."""


class Process:
    """A running program."""

    def __init__(self, name: str, command: list[str], places: Places, **options: Any) -> None:
        self.name = name
        self.output = places.logs / f"{name}.out"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(places.binaries)}
        with self.output.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=options.get("stdout", output),
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._child.pid
        self.stdout = self._child.stdout

    @property
    def exit_code(self) -> int | None:
        return self._child.poll()

    def wait(self, seconds: float) -> int:
        return self._child.wait(seconds)

    def signal(self, number: int) -> None:
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def complaint(self) -> str:
        tail = self.output.read_text(errors="replace")[-2000:].strip()
        return f"{self.name} (pid {self.pid}, exit code {self.exit_code}): {tail or 'said nothing'}"


class Stage:
    """All processes of a run; ends them when it is left."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.signal(signal.SIGTERM)
        patience = time.monotonic() + 3
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, patience - time.monotonic()))
        for process in self._processes.values():
            process.signal(signal.SIGKILL)

    def __getitem__(self, name: str) -> Process:
        return self._processes[name]

    def start(self, program: Program) -> Process:
        return self.run(program.name, command_line(program, self._places.config(program)))

    def run(self, name: str, command: list[str], **options: Any) -> Process:
        process = Process(name, command, self._places, **options)
        self._processes[name] = process
        return process

    def wait_ready(self, program: Program, seconds: float = 20) -> None:
        process, end = self[program.name], time.monotonic() + seconds
        while time.monotonic() < end:
            if process.exit_code is not None:
                break
            with suppress(OSError, http.client.HTTPException):
                if ask(program, "GET", "/ready")[0] == 200:
                    return
            time.sleep(0.05)
        raise NotReady(process.complaint())


def ask(program: Program, method: str, path: str) -> tuple[int, bytes]:
    """Asks a program's admin page."""
    return request((program.address, ADMIN_PORT), method, path, {})


def status_of(program: Program) -> dict[str, Any]:
    """What a program says about itself."""
    status: dict[str, Any] = json.loads(ask(program, "GET", "/status")[1])
    return status


def request(address: tuple[str, int], method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """One plain HTTP request."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def missing(program: Program) -> list[Path]:
    """What has to be built before the program can run."""
    parts = [Path(part) for part in program.command if part.startswith("/")]
    return [part for part in parts if not part.exists()]
