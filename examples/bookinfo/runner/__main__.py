"""Runs Bookinfo in two clusters and moves `details` from one to the other under load.

The order of events: everything in cluster A; cluster B's `details` starts; the file of productpage, and
nothing else, moves its traffic in steps; A's `details` is drained and leaves. Exit code 1 if a single
request failed, or anything else was not as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import probes
import report
from journal import Journal
from process import NotReady, Process, Stage, ask, missing, request, status_of
from world import FRONT_DOOR, ROOT, Places, Program, programs, render

# (when, as a share of the run; title; share of A; share of B)
MOVES = ((0.30, "90/10", 90, 10), (0.45, "50/50", 50, 50), (0.60, "0/100", 0, 100))
NEWCOMER_STARTS = 0.15
OLD_ONE_LEAVES = 0.75


class Run:
    """One run of the demo."""

    def __init__(self, options: argparse.Namespace, places: Places, stage: Stage) -> None:
        self.options = options
        self.places = places
        self.stage = stage
        self.programs = {program.name: program for program in programs(places)}
        self.facts = report.Facts(rps=options.rps, seconds=options.seconds, ttl=options.ttl)
        self._progress: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._phase = "100/0"

    def prepare(self) -> None:
        """All in A, up and proven by a page; nobody in B but its ingress and its policy server."""
        for program in self.programs.values():
            render(program, self.places, self._values(100, 0))
        early = [program for name, program in self.programs.items() if name != "b-details"]
        for program in early:
            self.stage.start(program)
        for program in early:
            self.stage.wait_ready(program)
        wait_for_page(self.stage)
        # What was logged while starting up is on its way, and is not part of the run.
        Journal(self.places, list(self.programs.values())).read_to_the_end()
        self.journal = Journal(self.places, list(self.programs.values()))

    def carry_out(self) -> None:
        """The load, the move, the drain."""
        load = self._start_load()
        began = time.monotonic()
        due = [(NEWCOMER_STARTS, self._start_newcomer)]
        due += [(at, lambda move=move: self._move(*move)) for at, *move in MOVES]  # type: ignore[misc]
        due += [(OLD_ONE_LEAVES, self._drain_old_one)]
        second = 0
        while load.exit_code is None:
            elapsed = time.monotonic() - began
            if elapsed > self.options.seconds + 30:
                raise NotReady(f"the load did not end: {load.complaint()}")
            while due and elapsed >= due[0][0] * self.options.seconds:
                due.pop(0)[1]()
            with suppress(queue.Empty):
                self._show(second + 1, self._progress.get(timeout=0.05))
                second += 1
        if load.exit_code != 0:
            raise NotReady(load.complaint())

    def conclude(self) -> bool:
        """Reads what is left to read, asks everybody, prints the table. True: all as promised."""
        facts = self.facts
        facts.load = json.loads((self.places.work / "load.json").read_text())
        with suppress(subprocess.TimeoutExpired):
            self.stage["a-details"].wait(20)
        facts.old_one_exit = self.stage["a-details"].exit_code
        self.journal.read_to_the_end()
        for name, program in self.programs.items():
            if name == "a-details":
                continue
            process = self.stage[name]
            alive = process.exit_code is None and facts.pids[name] == process.pid
            facts.survivors[name] = process.pid if alive else None
            if alive:
                self._ask(program)
        facts.refusals = probes.refusals()
        return report.tell(facts, self.journal, list(self.programs.values()))

    def _ask(self, program: Program) -> None:
        """What a process says about itself, for the table."""
        facts = self.facts
        facts.statuses[program.name] = status_of(program)
        metrics = ask(program, "GET", "/metrics")[1].decode()
        facts.label_names[program.language] |= probes.label_names(metrics)
        facts.cache_hits += probes.total(metrics, "libmesh_check_cache_hits_total")
        facts.cache_misses += probes.total(metrics, "libmesh_check_cache_misses_total")
        facts.lost_lines += probes.total(metrics, "libmesh_access_log_dropped_total")
        if program.identity == "policy":
            facts.policy_metric += probes.total(metrics, "istio_requests_total", 'reporter="destination"')

    def _values(self, weight_a: int, weight_b: int) -> dict[str, str]:
        return {"ttl": f"{self.options.ttl}s", "weight_a": str(weight_a), "weight_b": str(weight_b)}

    def _start_load(self) -> Process:
        options = self.options
        host, port = FRONT_DOOR
        command = [str(self.places.binaries / "bookinfo-load"), "--target", f"{host}:{port}", "--users", "20"]
        command += ["--rps", str(options.rps), "--seconds", str(options.seconds)]
        command += ["--report", str(self.places.work / "load.json")]
        self.facts.pids = {name: self.stage[name].pid for name in self.programs if name != "b-details"}
        load = self.stage.run("load", command, stdout=subprocess.PIPE)
        threading.Thread(target=self._follow, args=(load,), daemon=True).start()
        return load

    def _follow(self, load: Process) -> None:
        assert load.stdout is not None
        for line in load.stdout:
            with suppress(ValueError):
                self._progress.put(json.loads(line))

    def _start_newcomer(self) -> None:
        newcomer = self.programs["b-details"]
        self.stage.start(newcomer)
        self.stage.wait_ready(newcomer)
        self.facts.pids["b-details"] = self.stage["b-details"].pid
        say(f"b-details starts (pid {self.stage['b-details'].pid}); nobody calls it yet")

    def _move(self, title: str, weight_a: int, weight_b: int) -> None:
        productpage = self.programs["a-productpage"]
        before = status_of(productpage)["revision"]
        started = time.monotonic()
        render(productpage, self.places, self._values(weight_a, weight_b))
        while (status := status_of(productpage))["revision"] == before:
            if time.monotonic() - started > 20:
                raise NotReady(f"the new configuration is not in force: {status['config']}")
            time.sleep(0.01)
        took = time.monotonic() - started
        self.facts.moves.append(report.Move(title, status["revision"], weight_b / 100, took))
        self._phase = title
        say(f"a-productpage.yaml renamed: details {title}, in force after {took * 1000:.0f} ms")

    def _drain_old_one(self) -> None:
        old_one = self.programs["a-details"]
        self.journal.read()
        self.facts.served_before_drain = self.journal.served["a-details"]
        self._ask(old_one)
        ask(old_one, "POST", "/drain?seconds=1")
        self._phase = "A drains"
        say(f"a-details is drained and leaves (pid {self.stage['a-details'].pid})")

    def _show(self, second: int, progress: dict[str, Any]) -> None:
        self.journal.read()
        journal = self.journal
        by_cluster = {"details-a": 0, "details-b": 0}
        for counts in journal.details.values():
            for cluster, count in counts.items():
                by_cluster[cluster] += count
        share = 100 * journal.asked / journal.policed if journal.policed else 0.0
        print(
            f"{second:4d} s  {self._phase:>8}  {progress['done']:6d} pages  {progress['failed']} failed  "
            f"p50 {progress['p50_ms']:5.1f} ms  p99 {progress['p99_ms']:6.1f} ms  "
            f"details A {by_cluster['details-a']:6d}  B {by_cluster['details-b']:6d}  "
            f"policy calls {share:4.1f} %",
            flush=True,
        )


def say(what: str) -> None:
    print(f"        >> {what}", flush=True)


def wait_for_page(stage: Stage) -> None:
    """One page shows that the whole chain is up."""
    end = time.monotonic() + 20
    answer: object = "nothing"
    while time.monotonic() < end:
        with suppress(OSError):
            answer = request(FRONT_DOOR, "GET", "/productpage", probes.AS_USER)
            if answer[0] == 200:
                return
        time.sleep(0.1)
    raise NotReady(f"no page yet: {answer}; {stage['a-productpage'].complaint()}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bookinfo", description=__doc__)
    parser.add_argument("--rps", type=int, default=100, help="pages per second (default 100)")
    parser.add_argument("--seconds", type=int, default=60, help="length of the load (default 60)")
    parser.add_argument("--ttl", type=int, default=4, help="lifetime of a certificate in seconds (default 4)")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--release", type=Path, default=ROOT / "target" / "release", help="the Rust programs")
    parser.add_argument(
        "--built", type=Path, default=ROOT / "build" / "bookinfo", help="the C and Go programs"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bookinfo" / "run", help="files and logs"
    )
    return parser.parse_args()


def stop(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    options = parse_options()
    places = Places(options.release.absolute(), options.built.absolute(), options.work.absolute())
    absent = [str(path) for program in programs(places) for path in missing(program)]
    if absent:
        print("not built yet (make bookinfo builds them):", *sorted(set(absent)), sep="\n  ", file=sys.stderr)
        return 2
    shutil.rmtree(places.work, ignore_errors=True)
    places.logs.mkdir(parents=True)
    signal.signal(signal.SIGTERM, stop)
    with Stage(places) as stage:
        run = Run(options, places, stage)
        try:
            run.prepare()
            say(f"{len(run.programs) - 1} processes up; files and logs in {os.path.relpath(places.work)}")
            run.carry_out()
            is_fine = run.conclude()
            if options.keep:
                host, port = FRONT_DOOR
                say(f"kept running: curl -H 'host: bookinfo.example' http://{host}:{port}/productpage")
                say("Ctrl-C ends it")
                signal.pause()
        except NotReady as error:
            print(f"bookinfo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
