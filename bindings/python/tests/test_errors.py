"""What is raised, and what it says."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apps
import mesh
import pytest
from conftest import config, served
from mesh import _errors

Serve = Callable[..., mesh.Mesh]


def test_nobody_listens_is_a_connection_error(port: int) -> None:
    with mesh.Mesh.from_yaml(config(port)) as client_mesh, pytest.raises(ConnectionError) as caught:
        client_mesh.client().get("http://app/")
    error = caught.value
    assert isinstance(error, mesh.ConnectError)
    assert error.kind == "connect"
    assert error.sent == "never"
    assert error.attempts == 2
    assert error.cluster == "app"
    assert error.endpoint == f"127.0.0.1:{port}"


def test_too_slow_is_a_timeout_error(serve_wsgi: Serve) -> None:
    has_begun, is_over = threading.Event(), threading.Event()

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            has_begun.set()
            is_over.wait(60)
        start_response("200 OK", [])
        return [b""]

    client = serve_wsgi(app).client()
    client.get("http://app/").read()
    with pytest.raises(TimeoutError) as caught:
        client.get("http://app/slow", timeout=5.0)
    assert has_begun.wait(20)
    is_over.set()
    assert isinstance(caught.value, mesh.DeadlineExceeded)
    assert caught.value.sent == "maybe"


def test_asyncio_raises_the_same(port: int) -> None:
    async def run() -> None:
        with pytest.raises(mesh.ConnectError):
            await mesh.Mesh.from_yaml(config(port)).aclient().get("http://app/")

    asyncio.run(run())


def test_no_route_is_a_lookup_error(port: int) -> None:
    with pytest.raises(LookupError) as caught:
        mesh.Mesh.from_yaml(config(port)).client().get("http://nobody/")
    assert isinstance(caught.value, mesh.NoRoute)


@pytest.mark.parametrize(
    ("url", "headers"),
    [("/no/host", {}), ("http://", {}), ("http://app/", {"bad name": "x"}), ("http://app/", {"x": "a\nb"})],
)
def test_a_request_that_is_not_one_is_a_value_error(port: int, url: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="bad_request"):
        mesh.Mesh.from_yaml(config(port)).client().get(url, headers=headers)


def test_a_response_that_breaks_off_is_a_reset(serve_wsgi: Serve) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"some"
        raise RuntimeError("no more")

    client = serve_wsgi(app).client()
    with pytest.raises(ConnectionResetError) as caught:
        client.get("http://app/").read()
    assert isinstance(caught.value, mesh.RemoteReset)
    assert caught.value.sent == "maybe"


def test_a_closed_mesh_refuses(port: int) -> None:
    client_mesh = mesh.Mesh.from_yaml(config(port))
    client = client_mesh.client()
    client_mesh.close()
    with pytest.raises(mesh.ClosedError):
        client.get("http://app/")


def test_a_closed_client_refuses_and_its_mesh_does_not(serve_wsgi: Serve) -> None:
    client_mesh = serve_wsgi(apps.echo)
    with client_mesh.client() as client:
        pass
    with pytest.raises(mesh.ClosedError):
        client.get("http://app/")
    assert client_mesh.client().get("http://app/").status == 200


def test_every_kind_has_a_class_that_survives_pickling() -> None:
    for kind, cls in _errors._CLASSES.items():
        error = _errors.make(kind, f"{kind}: text", {"sent": "maybe", "attempts": 3, "retry_after": 1.5})
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is cls
        assert (copy.kind, copy.sent, copy.attempts, copy.retry_after) == (kind, "maybe", 3, 1.5)
        assert str(copy) == f"{kind}: text"


def test_each_class_is_the_one_people_catch() -> None:
    table: dict[type[mesh.MeshError], type[Exception]] = {
        mesh.ConfigError: ValueError,
        mesh.ForkedError: RuntimeError,
        mesh.TransportError: OSError,
        mesh.ConnectError: ConnectionError,
        mesh.ConnectTimeout: TimeoutError,
        mesh.ReadTimeout: TimeoutError,
        mesh.DeadlineExceeded: TimeoutError,
        mesh.PeerIdentityError: PermissionError,
        mesh.RemoteReset: ConnectionResetError,
        mesh.Denied: PermissionError,
    }
    for cls, standard in table.items():
        assert issubclass(cls, standard)
        assert isinstance(cls("text"), standard)


BROKEN = """
version: 1
clusters:
  - name: app
    endpoints: [ { addres: "127.0.0.1:1" } ]
routes:
  - name: app
    hosts: [app]
    rules: [ { backends: [ { cluster: ap } ] } ]
"""


def test_a_broken_configuration_says_every_reason(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(BROKEN)
    with pytest.raises(mesh.ConfigError) as caught:
        mesh.Mesh.from_file(file)
    assert caught.value.diagnostics
    assert caught.value.diagnostics[0].line == 5
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.diagnostics == caught.value.diagnostics
    assert mesh.validate(file) == caught.value.diagnostics


def test_check_prints_the_diagnostics_and_fails(tmp_path: Path, port: int) -> None:
    broken, valid = tmp_path / "broken.yaml", tmp_path / "valid.yaml"
    broken.write_text(BROKEN)
    valid.write_text(config(port))
    command = [sys.executable, "-m", "mesh", "check"]
    refused = subprocess.run([*command, str(broken)], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "broken.yaml:5" in refused.stderr
    accepted = subprocess.run([*command, str(valid)], capture_output=True, text=True, check=False)
    assert accepted.returncode == 0
    assert "valid" in accepted.stdout
    assert mesh.validate(valid) == []


def test_a_bad_reload_changes_nothing(port: int) -> None:
    with served(config(port), apps.echo), mesh.Mesh.from_yaml(config(port)) as client_mesh:
        client = client_mesh.client()
        before = client.get("http://app/").revision
        with pytest.raises(mesh.ConfigError):
            client_mesh.reload(BROKEN)
        assert client.get("http://app/").revision == before
        revision = client_mesh.reload(config(port).replace("hosts: [app]", "hosts: [renamed]"))
        assert revision > before
        assert client.get("http://renamed/").revision == revision
        assert client_mesh.status()["revision"] == revision


def test_a_pickled_mesh_is_its_configuration(serve_wsgi: Serve) -> None:
    copy = pickle.loads(pickle.dumps(serve_wsgi(apps.echo)))
    assert copy.client().get("http://app/").status == 200
    copy.close()


def test_metrics_have_istios_names(serve_wsgi: Serve) -> None:
    client_mesh = serve_wsgi(apps.echo)
    client_mesh.client().get("http://app/").read()
    assert "istio_requests_total" in client_mesh.metrics_text()
