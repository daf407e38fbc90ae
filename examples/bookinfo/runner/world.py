"""The processes of both clusters and the configuration of each.

Decides: which program runs at which address with which file. Never: starts one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
TRUST_DOMAIN = "cluster.local"
ADMIN_PORT = 15000
FRONT_DOOR = ("127.0.1.1", 8080)


@dataclass(frozen=True)
class Program:
    """One process of the mesh."""

    name: str
    """`a-productpage`: names its log and its configuration file too."""
    language: str
    address: str
    """Its own loopback address, as its own machine would be."""
    identity: str
    """The last part of its SPIFFE ID."""
    command: tuple[str, ...]
    """The program and, after the configuration file, its arguments."""
    template: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.name[0].upper()

    @property
    def spiffe_id(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{self.identity}"


@dataclass(frozen=True)
class Places:
    """Where programs are found and where the run writes."""

    binaries: Path
    built: Path
    work: Path

    @property
    def logs(self) -> Path:
        return self.work / "log"

    def config(self, program: Program) -> Path:
        return self.work / program.name[0] / f"{program.name[2:]}.yaml"

    def access_log(self, program: Program) -> Path:
        return self.logs / f"{program.name}.access.jsonl"


def programs(places: Places) -> list[Program]:
    """Everything that runs, in the order it is started."""
    rust, built = str(places.binaries), str(places.built)
    productpage = (sys.executable, str(HERE / "productpage" / "productpage.py"))
    reviews = [
        Program(
            name=f"a-reviews-{version}",
            language="Rust",
            address=address,
            identity="bookinfo-reviews",
            command=(f"{rust}/bookinfo-reviews", version),
            template="a/reviews.yaml",
            values={"version": version, "address": address},
        )
        for version, address in (("v1", "127.0.1.12"), ("v2", "127.0.1.13"), ("v3", "127.0.1.14"))
    ]
    return [
        _program("a-policy", "Rust", "127.0.1.20", "policy", (f"{rust}/bookinfo-policy",)),
        _program("b-policy", "Rust", "127.0.2.20", "policy", (f"{rust}/bookinfo-policy",)),
        _program("a-details", "C", "127.0.1.11", "bookinfo-details", (f"{built}/details",)),
        _program("a-ratings", "Go", "127.0.1.15", "bookinfo-ratings", (f"{built}/ratings",)),
        *reviews,
        _program("a-productpage", "Python", "127.0.1.10", "bookinfo-productpage", productpage),
        _program("b-ingress", "Rust", "127.0.2.1", "ingress-b", (f"{rust}/bookinfo-ingress", "mesh")),
        _program(
            "a-ingress", "Rust", "127.0.1.1", "ingress-a", (f"{rust}/bookinfo-ingress", "front", "mesh")
        ),
        _program("b-details", "C", "127.0.2.11", "bookinfo-details", (f"{built}/details",)),
    ]


def _program(name: str, language: str, address: str, identity: str, command: tuple[str, ...]) -> Program:
    return Program(name, language, address, identity, command, f"{name[0]}/{name[2:]}.yaml")


def command_line(program: Program, config: Path) -> list[str]:
    """The configuration file goes between the program (or a script) and its arguments."""
    head = 2 if program.command[0] == sys.executable else 1
    return [*program.command[:head], str(config), *program.command[head:]]


def render(program: Program, places: Places, values: Mapping[str, str]) -> None:
    """Writes a configuration file as a careful operator does: beside it, then renamed over it."""
    text = Template((HERE / "config" / program.template).read_text()).substitute({**values, **program.values})
    target = places.config(program)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".new")
    draft.write_text(text)
    os.replace(draft, target)
