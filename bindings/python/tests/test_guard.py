"""Guards around plain functions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import mesh
import pytest
from conftest import python

CONFIG = """
version: 1
guards:
  - { name: inventory, timeout: 30s, idempotent: true, retry: { attempts: 2, base: 1ms, max: 1ms } }
  - { name: payment, retry: { attempts: 2, base: 1ms, max: 1ms } }
  - { name: cut, attempt_timeout: 20ms, idempotent: true, retry: { attempts: 1, base: 1ms, max: 1ms } }
  - { name: patient, timeout: 48h, idempotent: true, retry: { attempts: 5, base: 10h, max: 10h } }
  - { name: narrow, concurrency_limit: { max_requests: 1 } }
"""


@pytest.fixture
def m() -> Iterator[mesh.Mesh]:
    with mesh.Mesh.from_yaml(CONFIG) as opened:
        yield opened


def calls(m: mesh.Mesh, guard: str) -> dict[str, int]:
    counted: dict[str, int] = m.status()["guards"][guard]["calls"]
    return {outcome: count for outcome, count in counted.items() if count}


def test_a_function_is_tried_until_it_works_and_keeps_its_signature(m: mesh.Mesh) -> None:
    tries: list[str] = []

    @m.guard("inventory")
    def stock(sku: str, *, scale: int = 1) -> int:
        """How many there are."""
        tries.append(sku)
        if len(tries) < 3:
            raise ConnectionResetError
        return 7 * scale

    assert stock("a", scale=2) == 14
    assert tries == ["a", "a", "a"]
    assert (stock.__name__, stock.__doc__) == ("stock", "How many there are.")
    assert calls(m, "inventory") == {"success": 1}
    assert 'libmesh_guard_attempts_total{guard="inventory"} 3' in m.metrics_text()


def test_the_last_exception_is_the_callers(m: mesh.Mesh) -> None:
    raised: list[Exception] = []

    def fails() -> None:
        raised.append(TimeoutError(str(len(raised))))
        raise raised[-1]

    with pytest.raises(TimeoutError, match="2") as caught:
        m.guard("inventory").call(fails)
    assert caught.value is raised[-1]
    assert len(raised) == 3
    assert calls(m, "inventory") == {"failure": 1}


@pytest.mark.parametrize(
    ("error", "tries", "outcome"),
    [
        (ConnectionResetError(), 1, "failure"),  # it may have acted
        (ConnectionRefusedError(), 3, "failure"),  # it has not
        (ValueError(), 1, "failure"),
        (KeyError(), 1, "rejected"),
        (mesh.ConnectError("no", sent="never"), 3, "failure"),
        (mesh.RemoteReset("gone", sent="maybe"), 1, "failure"),
        (mesh.Denied("no"), 1, "rejected"),
        (mesh.CircuitOpen("not now"), 1, "ignored"),
    ],
)
def test_what_an_exception_means(m: mesh.Mesh, error: Exception, tries: int, outcome: str) -> None:
    made = 0

    @m.guard("payment", expected=(KeyError,))
    def pay() -> None:
        nonlocal made
        made += 1
        raise error

    with pytest.raises(type(error)):
        pay()
    assert (made, calls(m, "payment")) == (tries, {outcome: 1})


def test_code_may_declare_that_twice_does_no_harm(m: mesh.Mesh) -> None:
    made = 0

    @m.guard("payment", retry_on=(LookupError,), idempotent=True)
    def pay() -> None:
        nonlocal made
        made += 1
        raise IndexError

    with pytest.raises(IndexError):
        pay()
    assert made == 3


async def _fails(tries: list[int]) -> None:
    tries.append(1)
    await asyncio.sleep(0)
    raise ConnectionResetError


def test_async_functions_are_awaited(m: mesh.Mesh) -> None:
    tries: list[int] = []

    @m.guard("inventory")
    async def stock() -> int:
        if len(tries) < 2:
            await _fails(tries)
        return 7

    assert asyncio.run(stock()) == 7
    assert len(tries) == 2


def test_an_attempt_that_hangs_is_cut_and_its_task_is_gone(m: mesh.Mesh) -> None:
    ended = 0

    @m.guard("cut")
    async def hangs() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(3600)
        finally:
            ended += 1

    async def run() -> int:
        with pytest.raises(mesh.ReadTimeout) as caught:
            await hangs()
        assert caught.value.attempts == 2
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    assert ended == 2
    assert calls(m, "cut") == {"attempt_timeout": 1}


def test_o18_a_cancelled_task_ends_now_and_tries_no_more(m: mesh.Mesh) -> None:
    tries: list[int] = []

    async def run(guard: str, wait: bool) -> int:
        started = asyncio.Event()

        @m.guard(guard)
        async def call() -> None:
            tries.append(1)
            started.set()
            if wait:
                await asyncio.sleep(3600)
            raise ConnectionResetError

        task = asyncio.create_task(call())
        await started.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    # Inside an attempt, and between two.
    assert asyncio.run(run("inventory", True)) == 1
    assert asyncio.run(run("patient", False)) == 1
    gc.collect()
    assert len(tries) == 2
    assert calls(m, "inventory") == {"ignored": 1}
    assert calls(m, "patient") == {"ignored": 1}
    assert m.status()["guards"]["patient"]["in_flight"] == 0


def test_o18_wait_for_around_a_guarded_call_raises_once(m: mesh.Mesh) -> None:
    tries: list[int] = []

    @m.guard("patient")
    async def call() -> None:
        await _fails(tries)

    async def run() -> int:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call(), 0.05)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    assert len(tries) == 1


INTERRUPTED = """
import sys, mesh
m = mesh.Mesh.from_yaml(sys.argv[1])
tries = 0

@m.guard("patient")
def call():
    global tries
    tries += 1
    print("failing", flush=True)
    raise ConnectionResetError

try:
    call()
except KeyboardInterrupt:
    print("interrupted", tries, m.status()["guards"]["patient"]["in_flight"], flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_o18_ctrl_c_ends_the_wait_between_two_attempts() -> None:
    process = python(INTERRUPTED, CONFIG)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "failing"
    time.sleep(0.2)  # into the wait; arriving earlier ends the attempt instead, with the same output
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out.strip() == "interrupted 1 0", err


def test_keyboard_interrupt_in_an_attempt_is_not_a_failure(m: mesh.Mesh) -> None:
    tries = 0

    @m.guard("inventory", retry_on=(Exception,))
    def call() -> None:
        nonlocal tries
        tries += 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call()
    assert (tries, calls(m, "inventory")) == (1, {"ignored": 1})


def test_the_function_runs_on_its_callers_thread(m: mesh.Mesh) -> None:
    seen: list[int] = []

    def where() -> None:
        seen.append(threading.get_ident())
        if len(seen) < 2:
            raise ConnectionResetError

    m.guard("inventory").call(where)
    assert set(seen) == {threading.get_ident()}
    assert len(seen) == 2


def test_the_deadline_of_the_call_is_known_inside(m: mesh.Mesh) -> None:
    seen: list[float | None] = []

    def look() -> None:
        context = mesh.current()
        assert context is not None
        seen.append(context.remaining)

    m.guard("inventory", timeout=5.0).call(look)
    assert seen[0] is not None
    assert 0 < seen[0] <= 5.0
    assert mesh.current() is None


def test_what_is_above_the_limit_is_refused(m: mesh.Mesh) -> None:
    guard = m.guard("narrow")

    def inner() -> Any:
        with pytest.raises(mesh.Overloaded):
            guard.call(lambda: None)
        return "outer"

    assert guard.call(inner) == "outer"


def test_an_open_breaker_is_a_typed_error_and_a_reload_keeps_it(m: mesh.Mesh) -> None:
    guard = m.guard("payment")
    for _ in range(5):
        with contextlib.suppress(ValueError):
            guard.call(int, "x")
    with pytest.raises(mesh.CircuitOpen) as caught:
        guard.call(int, "1")
    assert caught.value.retry_after is not None
    m.reload(CONFIG.replace("name: payment,", "name: payment, timeout: 7s,"))
    with pytest.raises(mesh.CircuitOpen):
        guard.call(int, "1")


def test_an_unknown_guard_is_refused_where_it_is_written(m: mesh.Mesh) -> None:
    with pytest.raises(mesh.ConfigError, match="inventory"):
        m.guard("nobody")


def test_a_closed_mesh_guards_nothing(m: mesh.Mesh) -> None:
    guard = m.guard("inventory")
    m.close()
    with pytest.raises(mesh.ClosedError):
        guard.call(int, "1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_has_a_guard_of_its_own(m: mesh.Mesh) -> None:
    guard = m.guard("inventory")
    assert guard.call(int, "1") == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if guard.call(int, "2") == 2 and calls(m, "inventory") == {"success": 1} else 1)
    assert os.waitpid(child, 0)[1] == 0
