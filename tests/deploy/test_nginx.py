"""deploy/nginx.conf in the real nginx, in front of two servers: TLS, limits, events, and what a client sees."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from werkzeug.serving import make_server as make_wsgi_server

from sam_config import SamConfig
from sam_server.jobs.queue import JobContext
from sam_server.web.application import make_app
from sam_server.web.reading import body_limit
from sam_server.web.state import Server, WebSettings, make_server
from tests.debian import program
from tests.serving import serving

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text()
NAME = "masks.example.org"
PATIENCE = 60.0
# What Debian's /etc/nginx/nginx.conf has around it; everything lies in the test's own directory.
AROUND = """
daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/masks.conf;
}}
"""


@dataclass(frozen=True)
class Front:
    """nginx in front of servers.

    Attributes:
        https, http: addresses.
        certificate: of its own authority.
        states: of the servers behind it.
    """

    https: str
    http: str
    certificate: Path
    states: list[Server]

    def ask(self, method: str, path: str, **options) -> requests.Response:
        headers = {"Host": NAME, **options.pop("headers", {})}
        return requests.request(
            method, self.https + path, verify=self.certificate, headers=headers, timeout=PATIENCE, **options
        )


@pytest.fixture(scope="session")
def nginx() -> str:
    """Path of Debian's nginx, installed if it is missing."""
    return program("nginx", "nginx-light")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def states() -> Iterator[list[Server]]:
    """Two servers without a model."""
    states = [make_server(WebSettings(metrics="open")) for _ in range(2)]
    yield states
    for state in states:
        state.jobs.close()


@pytest.fixture(scope="module")
def upstreams(states) -> Iterator[list[int]]:
    """Their ports."""
    servers = [make_wsgi_server("127.0.0.1", 0, make_app(state), threaded=True) for state in states]
    with ExitStack() as running:
        for server in servers:
            running.enter_context(serving(server))
        yield [server.port for server in servers]


def replaced(text: str, pattern: str, by: str) -> str:
    """The text with every match replaced; at least one is there."""
    text, count = re.subn(pattern, by, text)
    assert count, pattern
    return text


@pytest.fixture(scope="module")
def front(nginx, states, upstreams, tmp_path_factory) -> Iterator[Front]:
    """The configuration as it is, but for ports, and with a certificate of its own."""
    directory = tmp_path_factory.mktemp("nginx")
    # Workers of nginx may run as another user.
    directory.chmod(0o755)
    certificate, key = directory / "cert.pem", directory / "cert.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    http, https = free_ports(2)
    text = replaced(CONFIGURATION, r"listen \[::\]:\d+[^;]*;", "")
    text = replaced(text, r"listen 80;", f"listen 127.0.0.1:{http};")
    text = replaced(text, r"listen 443 ", f"listen 127.0.0.1:{https} ")
    text = replaced(text, r"ssl_certificate \S+;", f"ssl_certificate {certificate};")
    text = replaced(text, r"ssl_certificate_key \S+;", f"ssl_certificate_key {key};")
    for number, port in enumerate(upstreams):
        text = replaced(text, rf"server 127\.0\.0\.1:{5000 + number};", f"server 127.0.0.1:{port};")
    (directory / "masks.conf").write_text(text)
    main = directory / "nginx.conf"
    main.write_text(AROUND.format(directory=directory, user="user root;"))
    tried = subprocess.run([nginx, "-t", "-c", str(main)], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    assert "[warn]" not in tried.stderr, tried.stderr
    process = subprocess.Popen([nginx, "-c", str(main)], stderr=subprocess.DEVNULL)
    front = Front(f"https://127.0.0.1:{https}", f"http://127.0.0.1:{http}", certificate, states)
    try:
        wait_until_it_answers(front, process, directory / "error.log")
        yield front
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_until_it_answers(front: Front, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            front.ask("GET", "/health")
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text())


def test_it_speaks_tls_and_nothing_else(front):
    answer = front.ask("GET", "/health")
    assert answer.json()["status"] == "ok"
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    plain = requests.get(f"{front.http}/docs", headers={"Host": NAME}, allow_redirects=False, timeout=PATIENCE)
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{NAME}/docs")


def test_metrics_stay_inside(front):
    assert front.ask("GET", "/metrics").status_code == 404


def test_both_servers_get_requests(front):
    # One of the two alone knows the job.
    job = front.states[1].jobs.submit("test", lambda _: {})
    statuses = {front.ask("GET", f"/jobs/{job.id}").status_code for _ in range(4)}
    assert statuses == {200, 404}


def test_a_picture_of_the_largest_size_comes_through(front):
    limit = body_limit(SamConfig.max_upload_bytes)
    # A body that the server itself refuses, with a reason and what to change; nginx would say neither.
    answer = front.ask("POST", "/sessions", data=bytes(limit + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"], "the server's own words"
    refused = front.ask("POST", "/sessions", headers={"Content-Length": str(1 << 30)})
    assert refused.status_code == 413


def test_events_come_one_by_one(front):
    go_on = threading.Event()

    def work(_: JobContext) -> dict:
        assert go_on.wait(PATIENCE)
        return {}

    jobs = [state.jobs.submit("test", work) for state in front.states]
    events: list[str] = []
    try:
        # The next server in turn knows one of the two.
        answers = [front.ask("GET", f"/jobs/{jobs[0].id}/events", stream=True) for _ in range(2)]
        answer = next(answer for answer in answers if answer.status_code == 200)
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        events.append(next(line for line in lines if line.startswith("event:")))
        # This one came while the job runs: nothing holds the stream back.
        assert front.states[0].jobs.get(jobs[0].id).state in ("queued", "running")
    finally:
        go_on.set()
    events += [line for line in lines if line.startswith("event:")]
    assert events[-1] == "event: done"
