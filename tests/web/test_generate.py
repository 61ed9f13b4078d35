"""POST /generate_masks and /jobs: the generator's own masks, progress, cancel, and clients that leave."""

import base64
import io
import json
import socket
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image
from pycocotools import mask as coco
from skimage import data

from sam_server.automatic.generate import generate
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.masks import polygons
from sam_server.web.application import make_app
from sam_server.web.schemas import JobOut, MaskSetOut

# A random model finds masks only where nothing is asked of them.
ANY = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
MANY = {**ANY, "points_per_side": 200}
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def session(client, coins) -> str:
    return client.post("/sessions", data=coins, content_type="image/png").json["session_id"]


def end_of(client, path: str) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.get(path).json
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.01)
    raise TimeoutError(path)


def test_masks_are_those_of_the_generator(client, session, backend):
    answer = client.post("/generate_masks", json={"session_id": session, **ANY, "crop_n_layers": 1})
    assert answer.status_code == 200, answer.json
    assert set(answer.json) == set(MaskSetOut.model_fields)
    MaskSetOut.model_validate(answer.json)
    pixels = np.stack([data.coins()] * 3, axis=-1)
    alone = generate(backend, pixels, AutomaticParameters(**ANY, crop_n_layers=1))
    assert len(alone) > 0
    assert answer.json["masks"] == [record.to_dict() for record in alone.records]
    assert answer.json["count"] == len(alone)
    assert answer.json["parameters"]["points_per_side"] == 4
    assert answer.json["parameters"]["box_nms_thresh"] == 0.7
    assert client.get(f"/sessions/{session}").json["mask_sets"] == [answer.json["mask_set_id"]]


def test_formats_and_output_modes_say_the_same_masks(client, session):
    def ask(**fields) -> list:
        answer = client.post("/generate_masks", json={"session_id": session, **ANY, **fields})
        assert answer.status_code == 200, answer.json
        MaskSetOut.model_validate(answer.json)
        return [mask.get("segmentation") for mask in answer.json["masks"]]

    masks = [coco.decode(rle).astype(bool) for rle in ask()]
    assert ask(output_mode="coco_rle") == ask(mask_format="rle")
    assert ask(output_mode="binary_mask") == ask(mask_format="png")
    for mask, png in zip(masks, ask(mask_format="png"), strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        np.testing.assert_array_equal(picture.astype(bool), mask)
    for mask, polygon in zip(masks, ask(mask_format="polygon"), strict=True):
        np.testing.assert_array_equal(polygons.to_mask(polygon["coordinates"], mask.shape), mask)
    for mask, rle in zip(masks, ask(output_mode="uncompressed_rle"), strict=True):
        np.testing.assert_array_equal(coco.decode(coco.frPyObjects(rle, *rle["size"])), mask)
    assert ask(mask_format="none") == [None] * len(masks)


def test_a_picture_may_come_along(client, coins, backend):
    form = {"image": (io.BytesIO(coins), "c.png"), "mask_format": "none", **{k: json.dumps(v) for k, v in ANY.items()}}
    by_form = client.post("/generate_masks", data=form)
    by_body = client.post(
        "/generate_masks", data=coins, content_type="image/png", query_string={**ANY, "mask_format": "none"}
    )
    assert by_form.json["masks"] == by_body.json["masks"]
    assert backend.encoded == 1


def test_performance_mode_changes_the_defaults(make_state, coins, backend):
    state = make_state()
    state.slot.fill(backend, replace(state.model().report, performance_mode=True))
    client = make_app(state).test_client()
    answer = client.post("/generate_masks", data=coins, content_type="image/png", query_string={"mask_format": "none"})
    assert answer.json["parameters"]["points_per_side"] == 16
    assert answer.json["parameters"]["min_mask_region_area"] == 500


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"points_per_side": 0}, "invalid_parameter", "points_per_side"),
        ({"points_per_side": 1.5}, "invalid_field", "points_per_side"),
        ({"points_per_side": 10**9}, "invalid_parameter", "points_per_side"),
        ({"pred_iou_thresh": 1.5}, "invalid_parameter", "pred_iou_thresh"),
        ({"points_per_batch": None}, "invalid_parameter", "points_per_batch"),
        ({"crop_n_layers": 99}, "invalid_parameter", "crop_n_layers"),
        ({"tile_overlap": 5}, "invalid_parameter", "tile_overlap"),
        ({"point_grids": [[[2, 2]]], "points_per_side": None}, "invalid_parameter", "point_grids"),
        ({"output_mode": "gif"}, "invalid_field", "output_mode"),
        ({"output_mode": "coco_rle", "mask_format": "rle"}, "invalid_field", "output_mode"),
        ({"points_per_sid": 3}, "unknown_field", "points_per_sid"),
    ],
)
def test_bad_parameters(client, session, fields, code, field):
    answer = client.post("/generate_masks", json={"session_id": session, **fields})
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (422, code, field), answer.json


def test_a_job_tells_its_progress_and_its_result(client, session):
    answer = client.post("/generate_masks", json={"session_id": session, **ANY}, headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert set(answer.json) == set(JobOut.model_fields)
    path = answer.headers["Location"]
    assert path == f"/jobs/{answer.json['job_id']}"
    job = end_of(client, path)
    JobOut.model_validate(job)
    assert (job["kind"], job["state"], job["error"]) == ("generate_masks", "done", None)
    assert job["progress"] == {**job["progress"], "crops_done": 1, "crops": 1, "points_done": 16, "points": 16}
    assert job["result"]["session_id"] == session
    assert client.get(f"/sessions/{session}").json["mask_sets"] == [job["result"]["mask_set_id"]]


def test_a_client_may_wait_a_while_before_it_takes_the_job(client, session):
    patient = {"Prefer": "respond-async, wait=60"}
    assert client.post("/generate_masks", json={"session_id": session, **ANY}, headers=patient).status_code == 200


def test_events_follow_a_job_to_its_end(client, session):
    path = client.post("/generate_masks", json={"session_id": session, **ANY}, headers=ASYNC).headers["Location"]
    with client.get(f"{path}/events") as answer:
        assert answer.mimetype == "text/event-stream"
        events = [
            dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block
        ]
    assert events[-1]["event"] == "done"
    jobs = [json.loads(event["data"]) for event in events]
    assert [job["state"] for job in jobs] == [event["event"] for event in events]
    points = [job["progress"].get("points_done", 0) for job in jobs]
    assert points == sorted(points)
    assert points[-1] == 16
    assert [int(event["id"]) for event in events] == sorted({int(event["id"]) for event in events})


def test_too_many_followers_are_refused(make_state, coins):
    state = make_state(max_event_streams=1)
    client = make_app(state).test_client()
    query = {**MANY, "mask_format": "none"}
    answer = client.post("/generate_masks", data=coins, content_type="image/png", query_string=query, headers=ASYNC)
    path = answer.headers["Location"]
    first = client.get(f"{path}/events", buffered=False)
    refused = client.get(f"{path}/events")
    assert (refused.status_code, refused.json["code"]) == (503, "too_many_streams")
    first.close()
    client.delete(path)
    with client.get(f"{path}/events") as again:
        assert "event: cancelled" in again.text


def test_cancel_stops_the_work_within_a_chunk(client, state, session, backend, monkeypatch):
    cancel, chunks = state.jobs.cancel, []

    def watched(job_id):
        job = cancel(job_id)
        chunks.append(backend.chunks)
        return job

    monkeypatch.setattr(state.jobs, "cancel", watched)
    answer = client.post("/generate_masks", json={"session_id": session, **MANY}, headers=ASYNC)
    path = answer.headers["Location"]
    while client.get(path).json["progress"].get("points_done", 0) == 0:
        time.sleep(0.005)
    started = time.monotonic()
    assert client.delete(path).status_code == 200
    assert end_of(client, path)["state"] == "cancelled"
    print(f"stopped after {time.monotonic() - started:.3f} s")
    assert backend.chunks - chunks[0] <= 1, "the chunk that was about to begin"
    assert client.get(f"/sessions/{session}").json["mask_sets"] == []


def test_clicks_are_answered_while_a_search_runs(client, session):
    path = client.post("/generate_masks", json={"session_id": session, **MANY}, headers=ASYNC).headers["Location"]
    while client.get(path).json["progress"].get("points_done", 0) == 0:
        time.sleep(0.005)
    for _ in range(5):
        assert client.post("/segment", json={"session_id": session, "points": [[9, 9]]}).status_code == 200
    assert client.get(path).json["state"] == "running"
    client.delete(path)


def test_a_session_that_is_forgotten_meanwhile_fails_the_job(client, session):
    search = {"session_id": session, **ANY, "points_per_side": 16}
    path = client.post("/generate_masks", json=search, headers=ASYNC).headers["Location"]
    client.delete(f"/sessions/{session}")
    job = end_of(client, path)
    assert (job["state"], job["error"]["code"]) == ("failed", "session_deleted")


def test_the_queue_of_jobs_is_bounded(make_state, coins):
    state = make_state(job_workers=1, job_queue_length=1)
    client = make_app(state).test_client()
    session = client.post("/sessions", data=coins, content_type="image/png").json["session_id"]
    answers = []
    for _ in range(3):
        answers.append(client.post("/generate_masks", json={"session_id": session, **MANY}, headers=ASYNC))
        while state.jobs.counts().get("running", 0) == 0:
            time.sleep(0.005)
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    assert answers[2].json["code"] == "too_many_jobs"
    assert int(answers[2].headers["Retry-After"]) >= 1
    for answer in answers[:2]:
        client.delete(answer.headers["Location"])


def test_a_client_that_leaves_stops_its_search(make_state, serve, coins):
    state = make_state()
    url = serve(state)
    session = requests.post(f"{url}/sessions", data=coins, headers={"Content-Type": "image/png"}, timeout=60).json()
    body = json.dumps({"session_id": session["session_id"], **MANY}).encode()
    address = urlsplit(url)
    lines = (
        "POST /generate_masks HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    head = "\r\n".join(lines) + "\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(head.encode() + body)
        wait_until(lambda: state.jobs.counts().get("running", 0) == 1)
    started = time.monotonic()
    wait_until(lambda: state.jobs.counts() == {"cancelled": 1})
    print(f"stopped {time.monotonic() - started:.3f} s after the client left")


def test_a_job_survives_its_client(make_state, serve, coins):
    state = make_state()
    url = serve(state)
    with requests.Session() as first:
        form = {name: json.dumps(value) for name, value in {**ANY, "points_per_side": 40}.items()}
        answer = first.post(f"{url}/generate_masks", files={"image": coins}, data=form, headers=ASYNC, timeout=60)
        path = answer.headers["Location"]
    assert state.jobs.counts().get("done", 0) == 0, "its client leaves before the end"
    seen = []

    def follow() -> None:
        with requests.get(f"{url}{path}/events", stream=True, timeout=60) as answer:
            seen.extend(line for line in answer.iter_lines() if line.startswith(b"event"))

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join(60)
    assert seen[-1] == b"event: done"


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_unknown_and_forgotten_jobs(make_state, coins):
    client = make_app(make_state(jobs_kept=0)).test_client()
    for method, path in (("get", "/jobs/x"), ("delete", "/jobs/x"), ("get", "/jobs/x/events")):
        answer = getattr(client, method)(path)
        assert (answer.status_code, answer.json["code"]) == (404, "unknown_job")
    query = {**ANY, "mask_format": "none"}
    answer = client.post("/generate_masks", data=coins, content_type="image/png", query_string=query, headers=ASYNC)
    path = answer.headers["Location"]
    wait_until(lambda: client.get(path).status_code != 200)
    answer = client.get(path)
    assert (answer.status_code, answer.json["code"]) == (410, "job_expired")
