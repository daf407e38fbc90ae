"""What only WSGI has: `start_response`, iterables, an input without end; and gunicorn: forks and TLS."""

from __future__ import annotations

import datetime
import http.client
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import apps
import flask
import mesh
import pytest
from conftest import config, free_port, mtls, served
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from servers import FRIENDS_ONLY, LISTENER, ask, counted, environment, eventually, own_server, under_wsgiref

NO_ADMIN = "policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*, /api/admin*] } ] } }"


class Called:
    """An application called as a server would."""

    def __init__(self, app: Any, **environ: Any) -> None:
        self.heads: list[tuple[str, list[tuple[str, str]]]] = []
        self.written: list[bytes] = []
        base: dict[str, Any] = {"wsgi.input": io.BytesIO(environ.pop("body", b"")), **environ}
        setup_testing_defaults(base)
        self.output = app(base, self._start)

    @property
    def status(self) -> str:
        return self.heads[-1][0]

    def all(self) -> bytes:
        try:
            return b"".join(self.written) + b"".join(self.output)
        finally:
            if hasattr(self.output, "close"):
                self.output.close()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.heads.append((status, headers))
        return self.written.append


@pytest.fixture
def m() -> Iterator[mesh.Mesh]:
    with mesh.Mesh.from_yaml(LISTENER + NO_ADMIN) as opened:
        yield opened


def requests(m: mesh.Mesh, *labels: str) -> float:
    return counted(m.metrics_text(), "istio_requests_total", *labels)


def test_the_standard_library_finds_nothing_wrong_with_it(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    checked = validator(mesh.WsgiMiddleware(validator(app), m))
    port = free_port()
    with under_wsgiref(checked, port):
        assert ask(port, "/?a=b", "POST", body=b"hello").body == b"hello"


def test_the_environment_is_the_judged_one(m: mesh.Mesh) -> None:
    seen: list[apps.Environ] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.append(environ)
        start_response("204 No Content", [])
        return []

    middleware = mesh.WsgiMiddleware(app, m)
    given = {
        "SCRIPT_NAME": "/api",
        "PATH_INFO": "/x/../caf\u00c3\u00a9",
        "QUERY_STRING": "a=%20",
        "RAW_URI": "/api/x/../caf%C3%A9?a=%20",
        "HTTP_X_A": "1",
        "HTTP_COOKIE": "a=1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "",
        "app.own": "kept",
    }
    assert Called(middleware, **given).all() == b""
    environ = seen[0]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/api", "/caf\u00c3\u00a9")
    assert (environ["QUERY_STRING"], environ["RAW_URI"]) == ("a=%20", "/api/caf%C3%A9?a=%20")
    assert (environ["HTTP_X_A"], environ["HTTP_COOKIE"], environ["CONTENT_TYPE"]) == (
        "1",
        "a=1",
        "text/plain",
    )
    assert (environ["app.own"], environ["mesh.peer_id"], environ["mesh.claims"]) == ("kept", None, None)
    assert len(environ["mesh.trace_id"]) == 32
    assert environ["mesh.context"].trace_id == environ["mesh.trace_id"]


def test_a_mount_answers_for_nothing_outside_of_it(m: mesh.Mesh) -> None:
    def never(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        raise AssertionError("it was called")

    middleware = mesh.WsgiMiddleware(never, m)
    for path, status in (
        ("/admin", "403"),
        ("//admin", "403"),
        ("/x/../admin", "403"),
        ("/../secret", "404"),
    ):
        called = Called(middleware, SCRIPT_NAME="/api", PATH_INFO=path)
        called.all()
        assert called.status.startswith(status), path


def test_the_head_may_change_until_the_first_byte(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        try:
            raise RuntimeError("changed my mind")
        except RuntimeError:
            start_response("503 Sorry", [("X", "second")], sys.exc_info())
        yield b"sorry"
        try:
            raise RuntimeError("too late")
        except RuntimeError:
            start_response("500 No", [], sys.exc_info())

    called = Called(mesh.WsgiMiddleware(app, m))
    with pytest.raises(RuntimeError, match="too late"):
        called.all()
    assert called.heads == [("503 Sorry", [("x", "second")])]
    assert requests(m, 'response_code="503"') == 1


def test_a_second_head_and_none_at_all_are_errors(m: mesh.Mesh) -> None:
    def twice(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    for app in (twice, lambda environ, start_response: [b"x"]):
        with pytest.raises(AssertionError):
            Called(mesh.WsgiMiddleware(app, m)).all()
    assert requests(m, 'response_code="500"') == 2


def test_what_is_written_is_counted(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"abc")
        return [b"de"]

    assert Called(mesh.WsgiMiddleware(app, m)).all() == b"abcde"
    assert counted(m.metrics_text(), "istio_response_bytes_sum") == 5


class _Closing:
    """An iterable that counts its ends."""

    def __init__(self) -> None:
        self.closed: list[Any] = []

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    def close(self) -> None:
        self.closed.append(mesh.current())


def test_close_is_called_once_and_within_the_request(m: mesh.Mesh) -> None:
    output = _Closing()

    def app(environ: apps.Environ, start_response: apps.Start) -> Any:
        start_response("200 OK", [])
        return output

    called = Called(mesh.WsgiMiddleware(app, m))
    assert next(iter(called.output)) == b"a"
    assert requests(m) == 0
    called.output.close()
    called.output.close()
    assert [context is not None for context in output.closed] == [True]
    assert mesh.current() is None
    assert requests(m, 'response_flags="DC"') == 1
    assert counted(m.metrics_text(), "libmesh_requests_in_flight") == 0


def test_the_length_of_a_list_is_still_known(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"hello"]

    port = free_port()
    with under_wsgiref(mesh.WsgiMiddleware(app, m), port):
        assert ask(port, "/").headers["content-length"] == "5"


def test_a_file_is_sent_and_counted(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))

    content = Path(__file__).read_bytes()
    called = Called(mesh.WsgiMiddleware(app, m), **{"wsgi.file_wrapper": FileWrapper})
    assert called.all() == content
    assert counted(m.metrics_text(), "istio_response_bytes_sum") == len(content)


CHECK = """
clusters: [ {{ name: opa, endpoints: [ {{ address: "127.0.0.1:{port}" }} ] }} ]
policy: {{ checks: [ {{ name: opa, cluster: opa, timeout: 20s, http: {{}},
  with_request_body: {{ max_request_bytes: 12, allow_partial_message: true }} }} ] }}
"""


@contextmanager
def checked() -> Iterator[mesh.Mesh]:
    def allow(environ: apps.Environ, start_response: apps.Start) -> list[bytes]:
        is_evil = b"evil" in environ["wsgi.input"].read()
        start_response("403 Forbidden" if is_evil else "200 OK", [])
        return []

    port = free_port()
    with served(config(port), allow), mesh.Mesh.from_yaml(LISTENER + CHECK.format(port=port)) as opened:
        yield opened


READERS: dict[str, Any] = {
    "read": lambda source: [source.read()],
    "pieces": lambda source: [source.read(5), source.read(100), source.read(1)],
    "readline": lambda source: [source.readline(), source.readline(2), source.readline(), source.readline()],
    "readlines": lambda source: source.readlines(),
    "lines": lambda source: [*source],
    "readinto": lambda source: [bytes(buffer[: source.readinto(buffer)]) for buffer in (bytearray(7),)],
    "read1": lambda source: [source.read1(3), source.read1(), source.read1()],
    "buffered": lambda source: [*io.BufferedReader(source)],
}


@pytest.mark.parametrize("reader", READERS)
def test_a_body_that_a_check_looked_at_reads_as_it_came(reader: str) -> None:
    body = b"one\ntwo3\nfour five six\nseven"
    seen: list[list[bytes]] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.append(READERS[reader](environ["wsgi.input"]))
        start_response("200 OK", [])
        return []

    with checked() as m:
        for middleware in (app, mesh.WsgiMiddleware(app, m)):
            Called(middleware, body=body, REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body))).all()
        read = sum(map(len, seen[1]))
        assert counted(m.metrics_text(), "istio_request_bytes_sum", 'reporter="destination"') == read
    if reader == "read1":  # as much as there is at once
        assert [b"".join(pieces) for pieces in seen] == [body, body]
    else:
        assert seen[0] == seen[1]


def test_a_body_whose_end_nobody_tells_is_not_read_and_not_let_in() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("this would wait for ever")

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        raise AssertionError("it was called")

    with checked() as m:
        called = Called(
            mesh.WsgiMiddleware(app, m),
            **{"wsgi.input": Endless(), "HTTP_TRANSFER_ENCODING": "chunked", "REQUEST_METHOD": "POST"},
        )
        called.all()
        assert called.status.startswith("400")


def test_a_field_with_an_underscore_is_none_on_our_own_listener(serve_wsgi: Any, port: int) -> None:
    """`x_user` would read as `x-user`, which only a check may say."""
    serve_wsgi(apps.echo)
    facts = json.loads(ask(port, "/", headers=[("x_user", "root"), ("x-a", "1")]).body)
    assert "HTTP_X_USER" not in facts["headers"]
    assert facts["headers"]["HTTP_X_A"] == "1"


def test_flask_runs_behind_it() -> None:
    app = flask.Flask(__name__)

    @app.post("/books/<name>")
    def book(name: str) -> dict[str, Any]:
        current = mesh.current()
        return {
            "name": name,
            "title": flask.request.get_json()["title"],
            "trace": current and current.trace_id,
        }

    @app.get("/stream")
    def stream() -> flask.Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(3):
                yield str(mesh.current() is not None).encode()

        return flask.Response(flask.stream_with_context(pieces()))

    with own_server("wsgiref", (app.wsgi_app, None), NO_ADMIN) as serving:
        headers = [("content-type", "application/json")]
        facts = json.loads(serving.ask("/x/../books/a", "POST", headers, b'{"title": "A"}').body)
        assert (facts["name"], facts["title"], len(facts["trace"])) == ("a", "A", 32)
        assert serving.ask("/stream").body == b"TrueTrueTrue"
        assert serving.ask("/x/../admin").status == 403


SITE = """
import json, os, mesh

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/break":
        raise RuntimeError("broken")
    if path == "/metrics":
        body = m.metrics_text().encode()
    elif path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    else:
        read = len(environ["wsgi.input"].read())
        body = json.dumps([os.getpid(), path, read, environ["mesh.peer_id"]]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def certificates(environ):
    socket = environ["gunicorn.socket"]
    leaf = socket.getpeercert(True) if hasattr(socket, "getpeercert") else None
    return [leaf] if leaf else None

m = mesh.Mesh.from_file(os.environ["MESH_CONFIG"])
if os.environ.get("USED"):
    m.start()
application = mesh.WsgiMiddleware(application, m, peer_certificates=certificates)
"""


@contextmanager
def gunicorn(directory: Path, text: str, *options: str, **variables: str) -> Iterator[int]:
    port = free_port()
    (directory / "shop.py").write_text(SITE)
    (directory / "mesh.yaml").write_text(text)
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *options, "shop"]
    variables["MESH_CONFIG"] = str(directory / "mesh.yaml")
    log = (directory / "log").open("w")
    with (
        log,
        subprocess.Popen(command, cwd=directory, env={**environment(), **variables}, stderr=log) as server,
    ):
        try:
            eventually(lambda: _accepts(port) or server.poll() is not None)
            assert server.poll() is None, (directory / "log").read_text()
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                raise AssertionError("gunicorn hangs: " + (directory / "log").read_text()) from None


def _accepts(port: int) -> bool:
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("use", ["", "used"])
def test_gunicorn_forks_workers_that_each_judge(tmp_path: Path, use: str) -> None:
    """With `--preload` the application, and maybe a mesh that runs, is there before the fork."""
    options = ["--preload", "--workers", "2", "--threads", "2"]
    with gunicorn(tmp_path, LISTENER + NO_ADMIN, *options, USED=use) as port:
        workers: set[int] = set()

        def both_answered() -> bool:
            pid, path, read, peer = json.loads(ask(port, "/x/../books", "POST", body=b"x" * 9).body)
            assert (path, read, peer) == ("/books", 9, None)
            workers.add(pid)
            return len(workers) == 2

        eventually(both_answered)
        for target in ("/admin", "//admin", "/%61dmin", "/a/../admin", "/a/..%2fadmin", "/a/..;/admin"):
            assert ask(port, target).status in (307, 403), target


def test_gunicorn_sends_files_and_failures_and_takes_chunks(tmp_path: Path) -> None:
    with gunicorn(tmp_path, LISTENER + NO_ADMIN, "--workers", "1", "--threads", "2") as port:
        assert ask(port, "/file").body == SITE.encode()
        assert ask(port, "/break").status == 500
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/", body=iter([b"abc", b"def"]), encode_chunked=True)
        assert json.loads(connection.getresponse().read())[2] == 6
        connection.close()

        def recorded() -> bool:
            page = ask(port, "/metrics").body.decode()
            sums = [counted(page, "istio_requests_total", f'response_code="{code}"') for code in (200, 500)]
            sent = counted(page, "istio_response_bytes_sum", 'response_code="500"')
            return sums[0] >= 2 and sums[1] == 1 and sent == 0

        eventually(recorded)


def issue(directory: Path, name: str) -> tuple[Path, Path]:
    """A server's certificate and key by the development CA of that directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = x509.load_pem_x509_certificate((directory / "bundle.pem").read_bytes())
    (root_key,) = [path for path in (directory / "private").iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    signer: Any = serialization.load_pem_private_key(root_key.read_bytes(), None)
    now = datetime.datetime.now(datetime.timezone.utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    uri = x509.UniformResourceIdentifier(f"spiffe://test.example/{name}")
    usage = {name: name == "digital_signature" for name in _USAGES}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(signer, hashes.SHA256())
    )
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def test_gunicorn_with_mutual_tls_names_the_peer(tmp_path: Path) -> None:
    """A caller of the mesh, and a server that is not the mesh's: its handshake proves, the mesh says who."""
    ca = tmp_path / "ca"
    with mesh.Mesh.from_yaml(mtls(free_port(), ca, "app")) as app:
        app.start()
    certificate, key = issue(ca, "app")
    text = f"""{LISTENER}
identity: {{ spiffe_id: spiffe://test.example/app, dev_ca: {{ directory: "{ca}", ttl: 1h }} }}
{FRIENDS_ONLY}
"""
    options = ["--certfile", str(certificate), "--keyfile", str(key), "--ca-certs", str(ca / "bundle.pem")]
    with gunicorn(tmp_path, text, *options, "--cert-reqs", "2", "--threads", "2") as port:
        for name, status in (("friend", 200), ("stranger", 403)):
            with mesh.Mesh.from_yaml(mtls(port, ca, name)) as caller:
                response = caller.client().get("http://app/", headers={"x-forwarded-client-cert": "friend"})
                assert response.status == status, (tmp_path / "log").read_text()
                if status == 200:
                    assert response.json()[3] == "spiffe://test.example/friend"


def test_a_body_of_later_versions_is_there_whether_or_not_its_head_says_so() -> None:
    """Under HTTP/2 it may have no length: a check is told what the application reads, or it is refused."""

    class Unknown(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("this would wait for ever")

    seen: list[bytes] = []

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterable[bytes]:
        seen.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return []

    with checked() as m:
        middleware = mesh.WsgiMiddleware(app, m)
        later: dict[str, Any] = {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/2"}
        for source, status in (
            (io.BytesIO(b"evil"), "403"),
            (io.BytesIO(b"good"), "200"),
            (Unknown(), "400"),
        ):
            called = Called(middleware, **{**later, "wsgi.input": source})
            called.all()
            assert called.status.startswith(status)
        with pytest.raises(AssertionError, match="for ever"):  # it is the application that reads, as it may
            Called(middleware, **{**later, "wsgi.input": Unknown(), "CONTENT_LENGTH": "0"})
    assert seen == [b"good"]


def test_an_empty_piece_sends_nothing_and_keeps_the_head_back(m: mesh.Mesh) -> None:
    """No server takes a piece before its head, not even an empty one: Flask answers so."""
    app = flask.Flask(__name__)

    @app.post("/books")
    def books() -> tuple[str, int]:
        return "", 201

    app.wsgi_app = mesh.WsgiMiddleware(app.wsgi_app, m)  # type: ignore[method-assign]
    port = free_port()
    with under_wsgiref(app, port):
        answer = ask(port, "/books", "POST", body=b"x")
        assert (answer.status, answer.body) == (201, b"")


def test_an_empty_piece_after_the_head_is_passed_on(m: mesh.Mesh) -> None:
    """An application that has nothing yet gives its server a turn (PEP 3333)."""

    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        yield b"a"
        yield b""
        yield b"b"

    environ: dict[str, Any] = {"wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    output = mesh.WsgiMiddleware(app, m)(environ, lambda status, headers, *_: lambda piece: None)
    assert list(output) == [b"a", b"", b"b"]
    output.close()  # type: ignore[attr-defined]


def test_a_server_whose_start_response_returns_nothing_is_served(m: mesh.Mesh) -> None:
    def app(environ: apps.Environ, start_response: apps.Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        yield b"b"
        try:
            raise RuntimeError("too late")
        except RuntimeError:
            start_response("500 No", [], sys.exc_info())

    heads: list[str] = []
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    output = iter(mesh.WsgiMiddleware(app, m)(environ, lambda status, headers, *_: heads.append(status)))
    assert (next(output), next(output), heads) == (b"a", b"b", ["200 OK"])
    with pytest.raises(RuntimeError, match="too late"):
        next(output)
