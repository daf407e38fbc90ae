"""The README's examples are Python, and name what exists."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mesh
import pytest
from servers import LISTENER, ask, under_uvicorn, under_wsgiref

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_compile_and_name_what_exists() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    known = {"Mesh": mesh.Mesh, "mesh": mesh, "m": mesh.Mesh, "client": mesh.Client}
    for owner, name in re.findall(r"\b(mesh|m|client)\.([a-z_]+)\(", "\n".join(examples)):
        target = known[owner]
        assert hasattr(target, name) or hasattr(mesh.AsyncClient, name), f"{owner}.{name}"


def test_every_exception_is_in_the_table() -> None:
    table = README[README.index("| exception |") :]
    for name in mesh.__all__:
        value = getattr(mesh, name)
        if isinstance(value, type) and issubclass(value, mesh.MeshError) and value is not mesh.MeshError:
            assert f"`{name}`" in table, name


@pytest.mark.parametrize(
    ("which", "under"), [("mesh.AsgiMiddleware", under_uvicorn), ("mesh.WsgiMiddleware", under_wsgiref)]
)
def test_the_examples_of_middlewares_run(
    which: str, under: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    (example,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if which in text]
    rule = "policy: { access: { rules: [ { name: no, action: deny, paths: [/admin*] } ] } }"
    (tmp_path / "mesh.yaml").write_text(LISTENER + rule)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"mesh": mesh, "__name__": "shop"}
    exec(example, names)
    with under(names["app"], port):
        assert json.loads(ask(port, "/books").body) == {"caller": None, "user": None}
        assert ask(port, "/x/../admin").status == 403
