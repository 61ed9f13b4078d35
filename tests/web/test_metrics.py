"""GET /metrics: what Prometheus reads, and the line of every request in the log."""

import hashlib
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sam_server import logs
from sam_server.backend import DeviceMemory
from sam_server.web.application import make_app
from sam_server.web.state import WebSettings, make_server

POINT = {"points": [[120, 80]], "point_labels": [1]}
HEAD = {"content_type": "image/png"}


def read(client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: dict, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_requests_are_counted_by_route_method_and_status(client, coins):
    session = client.post("/sessions", data=coins, **HEAD).json["session_id"]
    for _ in range(3):
        client.post("/segment", json={"session_id": session, **POINT})
    client.get(f"/sessions/{session}")
    client.get("/sessions/0123")
    found = read(client)
    assert value(found, "sam_http_requests_total", method="POST", route="/sessions", status="201") == 1
    assert value(found, "sam_http_requests_total", method="POST", route="/segment", status="200") == 3
    route = "/sessions/<session_id>"
    assert value(found, "sam_http_requests_total", method="GET", route=route, status="200") == 1
    assert value(found, "sam_http_requests_total", method="GET", route=route, status="404") == 1
    assert value(found, "sam_http_request_seconds_count", method="POST", route="/segment") == 3
    assert value(found, "sam_phase_seconds_count", phase="encode") == 1
    assert value(found, "sam_phase_seconds_count", phase="predict") == 3
    assert value(found, "sam_phase_seconds_sum", phase="predict") > 0


def test_what_a_client_makes_up_is_no_label(client):
    for number in range(20):
        client.get(f"/nothing/{number}")
        client.open("/segment", method=f"BREW{number}")
        client.get(f"/mask_sets/{number}")
    found = read(client)
    requests = {labels for name, labels in found if name == "sam_http_requests_total"}
    assert requests == {
        (("method", "GET"), ("route", "none"), ("status", "404")),
        (("method", "other"), ("route", "none"), ("status", "405")),
        (("method", "GET"), ("route", "/mask_sets/<mask_set_id>"), ("status", "404")),
    }


def test_the_state_of_the_server(client, state, coins):
    before = read(client)
    assert value(before, "sam_sessions") == value(before, "sam_mask_sets") == 0
    session = client.post("/sessions", data=coins, **HEAD).json["session_id"]
    client.post("/sessions", data=coins, **HEAD)
    search = {"session_id": session, "points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0}
    assert client.post("/generate_masks", json=search).status_code == 200
    found = read(client)
    stats = state.sessions.stats()
    assert value(found, "sam_cache_bytes") == stats.bytes > 0
    assert value(found, "sam_cache_budget_bytes") == stats.budget_bytes
    assert (value(found, "sam_sessions"), value(found, "sam_pictures"), value(found, "sam_mask_sets")) == (2, 1, 1)
    assert value(found, "sam_cache_hits_total") == stats.hits > 0
    assert value(found, "sam_cache_misses_total") == 1
    assert value(found, "sam_cache_evictions_total") == value(found, "sam_cache_expirations_total") == 0
    assert value(found, "sam_jobs", state="done") == 1
    assert value(found, "sam_jobs", state="running") == 0
    assert value(found, "sam_queue_waiting") == 0
    assert value(found, "process_resident_memory_bytes") > 0


def test_what_runs(client):
    found = read(client)
    assert value(found, "sam_model_loaded") == 1
    assert value(found, "sam_model_fallback") == 1
    info = [dict(labels) for name, labels in found if name == "sam_model_info"]
    assert len(info) == 1
    assert (info[0]["model_type"], info[0]["requested_model_type"], info[0]["device"]) == ("tiny", "vit_h", "cpu")
    assert not [name for name, _ in found if name == "sam_gpu_memory_bytes"]


def test_memory_of_the_gpu(client, backend, monkeypatch):
    monkeypatch.setattr(backend, "device_memory", lambda: DeviceMemory(1, 2, 3, 4), raising=False)
    found = read(client)
    kinds = {kind: value(found, "sam_gpu_memory_bytes", kind=kind) for kind in ("used", "reserved", "free", "total")}
    assert kinds == {"used": 1, "reserved": 2, "free": 3, "total": 4}


def test_metrics_need_no_model():
    found = read(make_app(make_server(WebSettings())).test_client())
    assert value(found, "sam_model_loaded") == 0


def test_who_may_read_them(make_state):
    for setting, statuses in {"key": (401, 200), "open": (200, 200), "off": (401, 404)}.items():
        client = make_app(make_state(api_keys=("key",), metrics=setting)).test_client()
        given = [client.get("/metrics", headers=headers).status_code for headers in ({}, {"X-API-Key": "key"})]
        assert tuple(given) == statuses, setting


def test_open_metrics_are_given_where_they_are_asked_for(client):
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.fixture
def lines(caplog):
    """The requests that were logged, as JSON lines give them."""
    caplog.set_level(logging.DEBUG, logger="sam_server.requests")

    def read_them() -> list[dict]:
        records = [record for record in caplog.records if record.name == "sam_server.requests"]
        return [json.loads(logs.JsonLines().format(record)) for record in records]

    return read_them


def test_a_request_is_a_line(client, coins, lines):
    session = client.post("/sessions", data=coins, **HEAD).json["session_id"]
    client.post("/segment", json={"session_id": session, **POINT}, headers={"X-Request-ID": "click-1"})
    client.post("/segment", json={"session_id": "0123", **POINT})
    opened, clicked, lost = lines()
    assert (opened["method"], opened["route"], opened["status"]) == ("POST", "/sessions", 201)
    assert set(opened["phases"]) == {"decode", "encode", "cache"}
    assert opened["session"] == clicked["session"] == hashlib.sha256(session.encode()).hexdigest()[:12]
    assert opened["ms"] >= opened["phases"]["encode"] > 0
    assert (clicked["status"], set(clicked["phases"])) == (200, {"cache", "predict", "mask"})
    assert (lost["route"], lost["status"]) == ("/segment", 404)
    assert "session" not in lost


def test_lines_hold_no_secret_and_nothing_that_a_client_made_up(make_state, coins, caplog):
    client = make_app(make_state(api_keys=("very-secret-key",))).test_client()
    head = {"X-API-Key": "very-secret-key", "User-Agent": "made\x85up"}
    with caplog.at_level(logging.DEBUG):
        session = client.post("/sessions", data=coins, headers=head, **HEAD)
        client.get("/openapi.json?made=up", headers=head)
        client.get("/nothing/made%0Aup", headers={"Authorization": "Bearer made-up-key"})
        client.get(f"/sessions/{session.headers['Location'].rpartition('/')[2]}", headers=head)
        formatted = [f.format(record) for record in caplog.records for f in (logs.JsonLines(), logs.TextLines())]
    assert len(formatted) >= 8
    text = "\n".join(formatted)
    for secret in ("very-secret-key", "made", session.headers["Location"].rpartition("/")[2]):
        assert secret not in text


def test_probes_are_logged_where_they_are_asked_for(client, caplog):
    for level, count in ((logging.INFO, 0), (logging.DEBUG, 3)):
        with caplog.at_level(level, logger="sam_server.requests"):
            for path in ("/health", "/ready", "/metrics"):
                client.get(path)
        # What a server of an earlier test still logs from a thread of its own does not count.
        assert sum(record.name == "sam_server.requests" for record in caplog.records) == count
