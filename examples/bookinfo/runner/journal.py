"""Follows the access logs of all processes and adds up what they say.

Decides: nothing about the mesh; it only counts. Invariant: each complete line is counted once.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from world import Places, Program

POLICY_CLUSTER = "policy-server"
FRONT = "front"
# Traces whose id starts with this are followed hop by hop: one in sixteen.
SAMPLED = "0"


class Trail:
    """One sampled trace."""

    def __init__(self) -> None:
        self.seen_in: list[str] = []
        """Processes that logged it as served, in the order read."""
        self.sent = 0
        """How often it was sent on; each must be served somewhere."""
        self.entered = False


class Journal:
    """What all access logs say, from its making up to now."""

    def __init__(self, places: Places, programs: list[Program]) -> None:
        self._tails = [(program, Tail(places.access_log(program))) for program in programs]
        self._owner = {f"{program.address}": program.name for program in programs}
        identities = Counter(program.spiffe_id for program in programs)
        self._alone = {p.spiffe_id: p.name for p in programs if identities[p.spiffe_id] == 1}
        self.served: Counter[str] = Counter()
        """Requests by process that served them."""
        self.policy_calls: Counter[str] = Counter()
        """Calls to the policy server by process that made them."""
        self.policy_answers = 0
        """The same, as counted by the policy servers."""
        self.details: dict[int, Counter[str]] = defaultdict(Counter)
        """productpage's requests to `details`, by revision of its configuration and by cluster."""
        self.sent = 0
        """Requests between services as their callers count them, policy calls apart."""
        self.received = 0
        """The same as the called count them."""
        self.retried = 0
        self.failures: Counter[str] = Counter()
        """Hops that ended badly, by process and reason; none is expected."""
        self.serials: dict[str, set[str]] = defaultdict(set)
        """Certificate serial numbers by process, as its peers saw them."""
        self.trails: dict[str, Trail] = defaultdict(Trail)

    def read(self) -> int:
        """Counts what was written since the last time; returns how many lines that was."""
        count = 0
        for program, tail in self._tails:
            for line in tail.lines():
                count += 1
                entry = json.loads(line)
                if entry["reporter"] == "source":
                    self._sent(program, entry)
                elif entry.get("error_type") == "tls":
                    self.failures[f"{program.name} refused a connection: {entry.get('error_detail')}"] += 1
                else:
                    self._served(program, entry)
        return count

    def read_to_the_end(self) -> None:
        """Reads until twenty looks in a second found nothing new, for at most 20 s: log lines come late."""
        ends = time.monotonic() + 20
        quiet = 0
        while quiet < 20 and time.monotonic() < ends:
            quiet = 0 if self.read() else quiet + 1
            time.sleep(0.05)

    def _sent(self, program: Program, entry: dict[str, Any]) -> None:
        host = entry.get("endpoint", "").rpartition(":")[0]
        if "peer_serial" in entry and host in self._owner:
            self.serials[self._owner[host]].add(entry["peer_serial"])
        self._note_failure(program, entry, "to " + entry.get("cluster", "nowhere"))
        self.retried += entry.get("attempts", 1) > 1
        if entry.get("cluster") == POLICY_CLUSTER:
            self.policy_calls[program.name] += 1
            return
        self.sent += 1
        if program.name == "a-productpage" and entry.get("cluster", "").startswith("details"):
            self.details[int(entry["revision"])][entry["cluster"]] += 1
        if entry["trace_id"].startswith(SAMPLED):
            self.trails[entry["trace_id"]].sent += 1

    def _served(self, program: Program, entry: dict[str, Any]) -> None:
        if entry.get("peer") in self._alone:
            self.serials[self._alone[entry["peer"]]].add(entry["peer_serial"])
        self._note_failure(program, entry, "served")
        if program.identity == "policy":
            self.policy_answers += 1
            return
        self.served[program.name] += 1
        is_front = entry.get("listener") == FRONT
        self.received += not is_front
        if entry["trace_id"].startswith(SAMPLED):
            trail = self.trails[entry["trace_id"]]
            trail.seen_in.append(program.name)
            trail.entered |= is_front

    def _note_failure(self, program: Program, entry: dict[str, Any], what: str) -> None:
        if entry["status"] != 200 or "error_type" in entry:
            why = entry.get("error_type", "no error")
            self.failures[
                f"{program.name} {what}: {entry['status']} {why} {entry.get('error_detail', '')}".strip()
            ] += 1

    @property
    def policed(self) -> int:
        """Requests a policy server had to agree to."""
        return sum(self.served.values())

    @property
    def asked(self) -> int:
        """Calls made for that."""
        return sum(self.policy_calls.values())


class Tail:
    """A growing file, from its present end on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[bytes]:
        """The complete lines since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            block = file.read()
        end = block.rfind(b"\n") + 1
        self._offset += end
        return block[:end].splitlines()
