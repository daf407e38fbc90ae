"""Single requests that show a promise kept, and numbers read from metrics pages."""

from __future__ import annotations

import http.client
import re

from process import request
from world import FRONT_DOOR

AS_USER = {"host": "bookinfo.example", "end-user": "user-0"}


def refusals() -> dict[str, tuple[bool, str]]:
    """What must not work: (whether it was refused, what happened)."""
    answers = {
        "the banned user `mallory` (policy server)": _answer(
            FRONT_DOOR, "/productpage", {**AS_USER, "end-user": "mallory"}
        ),
        "a path no user may see (access rule)": _answer(
            FRONT_DOOR, "/details/0", {**AS_USER, "host": "details"}
        ),
        "plaintext to ratings (strict mutual TLS)": _answer(("127.0.1.15", 9080), "/ratings/0", {}),
        "plaintext to details in B (strict mutual TLS)": _answer(("127.0.2.11", 9080), "/details/0", {}),
    }
    return {what: (answer in ("403", "connection closed"), answer) for what, answer in answers.items()}


def _answer(address: tuple[str, int], path: str, headers: dict[str, str]) -> str:
    try:
        return str(request(address, "GET", path, headers)[0])
    except ConnectionRefusedError:
        return "nobody listens"
    except (OSError, http.client.HTTPException):
        return "connection closed"


def label_names(metrics: str) -> set[tuple[str, ...]]:
    """The label names of `istio_requests_total`, one tuple for each set that occurs."""
    found = re.findall(r"^istio_requests_total\{(.*)\} ", metrics, re.MULTILINE)
    return {tuple(re.findall(r'([a-z_]+)="', labels)) for labels in found}


def total(metrics: str, name: str, *labels: str) -> int:
    """The sum of all series of a counter that have these labels."""
    series = re.findall(rf"^{name}(?:\{{(.*)\}})? ([0-9.e+]+)$", metrics, re.MULTILINE)
    return sum(int(float(value)) for found, value in series if all(label in found for label in labels))
