"""GET /health, /ready, /backend_info, /openapi.json, /docs, and what surrounds every answer."""

import logging
import re
import threading
from dataclasses import replace

import pytest

from sam_server import __version__
from sam_server.web.application import make_app
from sam_server.web.model import ModelSlot
from sam_server.web.problems import MIMETYPE
from sam_server.web.schemas import BackendInfoOut
from sam_server.web.state import WebSettings, make_server

POINT = {"points": [[10, 10]], "point_labels": [1]}


def test_health_needs_no_model():
    client = make_app(make_server(WebSettings())).test_client()
    assert client.get("/health").json == {"status": "ok", "version": __version__}


@pytest.mark.parametrize("path", ["/ready", "/backend_info"])
def test_before_the_model_is_loaded_the_answer_is_503(path):
    client = make_app(make_server(WebSettings())).test_client()
    answer = client.get(path)
    assert (answer.status_code, answer.json["code"]) == (503, "model_loading")
    assert int(answer.headers["Retry-After"]) >= 1


def test_pictures_wait_for_the_model_too(coins):
    client = make_app(make_server(WebSettings())).test_client()
    answer = client.post("/sessions", data=coins, content_type="image/png")
    assert (answer.status_code, answer.json["code"]) == (503, "model_loading")


def test_ready_and_backend_info_tell_the_truth(client):
    assert client.get("/ready").json == {"status": "ready", "model_type": "tiny", "device": "cpu"}
    info = client.get("/backend_info").json
    assert set(info) == set(BackendInfoOut.model_fields)
    BackendInfoOut.model_validate(info)
    assert (info["backend"], info["model_type"], info["device"], info["use_gpu"]) == ("pytorch", "tiny", "cpu", False)
    assert (info["requested_backend"], info["requested_model_type"], info["requested_gpu"]) == ("auto", "vit_h", True)
    assert info["fallback_reason"] == "no checkpoint of vit_h could be downloaded"
    assert info["onnx_providers"] == []
    assert info["precision"] == "fp32"
    assert info["engine"].startswith("torch ")
    assert info["model_files"] == ["tiny.safetensors"]
    assert info["warm_up_ms"] > 0
    assert (info["queue_waiting"], info["jobs"]) == (0, {})
    assert info["version"] == __version__


def test_backend_info_counts_the_cache(client, coins):
    for _ in range(2):
        client.post("/sessions", data=coins, content_type="image/png")
    cache = client.get("/backend_info").json["cache"]
    assert (cache["misses"], cache["hits"], cache["sessions"], cache["images"]) == (1, 1, 2, 1)
    assert 0 < cache["bytes"] < cache["budget_bytes"]


def test_the_model_is_loaded_in_the_background(make_state, backend, caplog):
    filled = make_state()
    report = replace(filled.model().report, fallback_reason="vit_h is not here")
    may_load = threading.Event()
    slot = ModelSlot(filled.gate)
    state = replace(filled, slot=slot)
    client = make_app(state).test_client()

    def load():
        assert may_load.wait(10)
        return backend, report

    with caplog.at_level(logging.INFO):
        thread = slot.load_in_background(load, pytest.fail)
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        may_load.set()
        thread.join(30)
    assert client.get("/ready").status_code == 200
    assert "serving tiny with torch" in caplog.text
    assert "asked for auto/vit_h, but vit_h is not here" in caplog.text


def test_a_model_that_cannot_be_loaded_is_told_to_the_owner_and_to_clients(make_state):
    state = make_state()
    slot = ModelSlot(state.gate)
    told: list[str] = []

    def load():
        raise ValueError("the file is damaged")

    slot.load_in_background(load, told.append).join(10)
    assert told == ["the model could not be loaded: the file is damaged"]
    answer = make_app(replace(state, slot=slot)).test_client().get("/ready")
    assert (answer.status_code, answer.json["code"]) == (503, "model_failed")
    assert "the file is damaged" in answer.json["detail"]


@pytest.mark.parametrize("name", ["abc-123", "0af7651916cd43dd:8448eb211c80319c"])
def test_a_sane_request_id_is_kept(client, name):
    assert client.get("/health", headers={"X-Request-ID": name}).headers["X-Request-ID"] == name


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "ä", "<script>"])
def test_another_request_id_is_replaced(client, name):
    given = client.get("/health", headers={"X-Request-ID": name}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{16}", given)


def test_server_timing_stands_on_every_answer(client):
    for path in ("/health", "/nothing"):
        assert re.fullmatch(r"total;dur=\d+\.\d", client.get(path).headers["Server-Timing"])


def test_an_api_key_is_asked_for(make_state, coins):
    client = make_app(make_state(api_keys=("first-key", "second-key"))).test_client()
    for path in ("/health", "/ready"):
        assert client.get(path).status_code == 200
    for headers in (
        {},
        {"X-API-Key": "wrong"},
        {"Authorization": "Bearer first"},
        {"Authorization": "Basic first-key"},
    ):
        answer = client.post("/sessions", data=coins, content_type="image/png", headers=headers)
        assert (answer.status_code, answer.json["code"]) == (401, "missing_or_wrong_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for headers in (
        {"X-API-Key": "second-key"},
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
    ):
        answer = client.post("/sessions", data=coins, content_type="image/png", headers=headers)
        assert answer.status_code == 201


def test_pages_of_other_origins_may_call_only_if_listed(make_state):
    page = {"Origin": "https://annotate.example"}
    closed = make_app(make_state()).test_client()
    assert "Access-Control-Allow-Origin" not in closed.get("/health", headers=page).headers
    client = make_app(make_state(cors_origins=("https://annotate.example",), api_keys=("key",))).test_client()
    answer = client.get("/health", headers=page)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://annotate.example"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]
    other = client.get("/health", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    preflight = client.options("/segment", headers={**page, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]


def test_the_description_covers_every_path_and_every_error(client):
    document = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__
    undocumented = {
        "/",
        "/page/choices.json",
        "/page/<path:filename>",
        "/docs",
        "/docs/ui/<path:name>",
        "/openapi.json",
    }
    undocumented.add("/static/<path:filename>")
    rules = {rule.rule for rule in client.application.url_map.iter_rules()} - undocumented
    assert {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule) for rule in rules} == set(document["paths"])
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [MIMETYPE]


def test_every_reference_of_the_description_leads_somewhere(client):
    document = client.get("/openapi.json")
    names = set(re.findall(r'"#/components/schemas/(\w+)"', document.text))
    assert names
    assert names <= set(document.json["components"]["schemas"])


def test_the_page_of_the_description_works_offline(client):
    with client.get("/docs") as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert "//" not in link
        with client.get("/" + link) as file:
            assert file.status_code == 200
    assert client.get("/docs/ui/../../__init__.py").status_code == 404
