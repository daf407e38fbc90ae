"""The table at the end, and the verdict.

Decides: whether what was seen is what was promised. Never: measures. Invariant: each promise is one line with
its evidence, and one broken promise fails the run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from journal import Journal, Trail
from world import Program

MAX_POLICY_SHARE = 0.10
LIVE_WITHIN_SECONDS = 1.0
# A certificate of 4 s is renewed after 2 s and its connections end with it: in 120 s at least 25 are seen.
SERIALS_PER_TTL = 25 * 4 / 120


@dataclass
class Move:
    """One change of configuration."""

    title: str
    revision: int
    share_of_b: float
    took: float


@dataclass
class Facts:
    """What the run learned from elsewhere than the access logs."""

    rps: int
    seconds: int
    ttl: int
    load: dict[str, Any] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)
    survivors: dict[str, int | None] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    label_names: dict[str, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))
    policy_metric: int = 0
    """Calls by the policy servers' own metrics; start-up included, as in the caches' numbers."""
    cache_hits: int = 0
    cache_misses: int = 0
    lost_lines: int = 0
    refusals: dict[str, tuple[bool, str]] = field(default_factory=dict)
    old_one_exit: int | None = None
    served_before_drain: int = 0


class Table:
    """Prints lines and remembers whether all were fine."""

    def __init__(self) -> None:
        self.broken = 0

    def title(self, text: str) -> None:
        print(f"\n{text}")

    def note(self, text: str) -> None:
        print(f"      {text}")

    def promise(self, is_kept: bool, text: str) -> None:
        self.broken += not is_kept
        print(f"  {'ok ' if is_kept else 'BAD'} {text}")


def tell(facts: Facts, journal: Journal, programs: list[Program]) -> bool:
    """Prints everything; true if every promise was kept."""
    table = Table()
    _requests(table, facts, journal)
    _move(table, facts, journal)
    _policy(table, facts, journal)
    _identity(table, facts, journal, programs)
    _observed(table, facts, journal)
    verdict = "every promise kept" if table.broken == 0 else f"{table.broken} broken"
    print(
        f"\nbookinfo: {facts.load['requests']} requests, {facts.load['failed']} failed; {verdict}", flush=True
    )
    return table.broken == 0


def _requests(table: Table, facts: Facts, journal: Journal) -> None:
    load = facts.load
    latency = load["latency_ms"]
    table.title("Requests, as the users saw them")
    table.promise(
        load["failed"] == 0 and load["answered"] == load["requests"] == facts.rps * facts.seconds,
        f"{load['requests']} sent, {load['answered']} ended, {load['failed']} failed  "
        f"(status {load['statuses']}, errors {load['errors']})",
    )
    table.note(
        "latency from when a request was due: " + ", ".join(f"{k} {v:.1f} ms" for k, v in latency.items())
    )
    for failure in load["first_failures"]:
        table.note(f"request {failure['request']}: {failure['what']} after {failure['after_ms']:.0f} ms")
    table.promise(not journal.failures, f"{sum(journal.failures.values())} hops inside that ended badly")
    for what, count in journal.failures.most_common(10):
        table.note(f"{count} x {what}")
    table.note(f"{journal.retried} hops took more than one attempt")


def _move(table: Table, facts: Facts, journal: Journal) -> None:
    table.title("details, cluster A to cluster B, by productpage's file alone")
    first = min(journal.details, default=1)
    steps = [("before", first, 0.0), *((move.title, move.revision, move.share_of_b) for move in facts.moves)]
    for title, revision, expected in steps:
        a, b = journal.details[revision]["details-a"], journal.details[revision]["details-b"]
        share = b / max(a + b, 1)
        # Four and a half standard deviations: a fair split misses that once in 150 000 runs.
        margin = 4.5 * math.sqrt(expected * (1 - expected) / max(a + b, 1))
        is_kept = a + b > 0 and abs(share - expected) <= margin
        table.promise(
            is_kept, f"{title:>7}  revision {revision}:  A {a:6d}   B {b:6d}   ({100 * share:5.1f} % in B)"
        )
    slowest = max((move.took for move in facts.moves), default=math.inf)
    # A machine that stands still for a moment may make one of them late.
    in_time = sum(move.took < LIVE_WITHIN_SECONDS for move in facts.moves)
    table.promise(
        len(facts.moves) == 3 and in_time >= 2,
        f"{len(facts.moves)} changes of the file, {in_time} of them in force within a second, "
        f"the slowest within {slowest * 1000:.0f} ms",
    )
    late = journal.served["a-details"] - facts.served_before_drain
    table.promise(
        facts.old_one_exit == 0 and late == 0,
        f"a-details drained and left by itself (exit code {facts.old_one_exit}); "
        f"{late} requests reached it after the drain began",
    )
    changed = [name for name, pid in facts.survivors.items() if pid is None]
    table.promise(
        not changed,
        f"{len(facts.survivors)} other processes have the pid they started with {changed or ''}".rstrip(),
    )


def _policy(table: Table, facts: Facts, journal: Journal) -> None:
    share = journal.asked / max(journal.policed, 1)
    hit_rate = facts.cache_hits / max(facts.cache_hits + facts.cache_misses, 1)
    table.title("Policy")
    table.promise(
        share <= MAX_POLICY_SHARE and journal.policed > 0,
        f"{journal.policed} policed requests, {journal.asked} calls to a policy server: {100 * share:.2f} %",
    )
    table.promise(
        hit_rate >= 1 - MAX_POLICY_SHARE,
        f"caches: {facts.cache_hits} hits, {facts.cache_misses} misses, hit rate {100 * hit_rate:.2f} %",
    )
    table.promise(
        journal.asked == journal.policy_answers <= facts.policy_metric,
        f"the policy servers count {journal.policy_answers} calls in their logs, {facts.policy_metric} in "
        "their metrics (start-up included)",
    )
    for what, (is_refused, answer) in facts.refusals.items():
        table.promise(is_refused, f"refused: {what}: {answer}")


def _identity(table: Table, facts: Facts, journal: Journal, programs: list[Program]) -> None:
    table.title(f"Identity: certificates live {facts.ttl} s")
    for program in programs:
        serials = len(journal.serials[program.name])
        rotations = facts.statuses.get(program.name, {}).get("identity", {}).get("rotations", 0)
        wanted = math.floor(SERIALS_PER_TTL * _lifetime(program.name, facts) / facts.ttl)
        text = f"{program.name:14} {program.language:7} {serials:3d} serial numbers seen by its peers"
        text += f", {rotations} certificates issued"
        if program.identity == "policy":
            table.note(f" {text}")
        else:
            table.promise(serials >= wanted, f"{text} (at least {wanted})")


def _lifetime(name: str, facts: Facts) -> float:
    """Seconds in which traffic went through a process."""
    share = {"a-details": 0.60, "b-details": 0.70, "b-ingress": 0.70}.get(name, 1.0)
    return share * facts.seconds


def _observed(table: Table, facts: Facts, journal: Journal) -> None:
    table.title("Observed")
    table.promise(
        journal.sent == journal.received > 0,
        f"every request between services is logged at both ends: "
        f"{journal.sent} sent, {journal.received} received",
    )
    table.promise(facts.lost_lines == 0, f"{facts.lost_lines} log lines lost")
    trails = {trace: trail for trace, trail in journal.trails.items() if trail.entered}
    whole = {trace: trail for trace, trail in trails.items() if _is_whole(trail)}
    table.promise(
        0 < len(whole) == len(trails),
        f"{len(whole)} of {len(trails)} sampled traces are in the log of every service they crossed",
    )
    for trace, trail in sorted(whole.items(), key=lambda item: -len(set(item[1].seen_in)))[:1]:
        table.note(f"trace {trace}: {', '.join(sorted(set(trail.seen_in)))}")
        table.promise(
            len(set(trail.seen_in)) >= 6,
            f"one trace crossed {len(set(trail.seen_in))} processes and both clusters",
        )
    sets = {names for found in facts.label_names.values() for names in found}
    languages = ", ".join(sorted(facts.label_names))
    table.promise(
        len(sets) == 1 and len(facts.label_names) == 4,
        f"istio_requests_total has the same {len(next(iter(sets), ()))} labels in {languages}",
    )


def _is_whole(trail: Trail) -> bool:
    return len(trail.seen_in) == trail.sent + 1
