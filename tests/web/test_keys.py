"""API keys: hashed or plain, and what one key made is unknown to all others."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sam_config import ConfigError, load_config
from sam_server.web.application import make_app
from sam_server.web.keys import KeyRing, hash_key

ROOT = Path(__file__).parents[2]
ANN, BOB = {"X-API-Key": "key-of-ann"}, {"Authorization": "Bearer key-of-bob"}
POINT = {"points": [[120, 80]], "point_labels": [1]}
SEARCH = {"points_per_side": 1, "pred_iou_thresh": 0, "stability_score_thresh": 0}


def test_a_key_is_known_by_its_hash():
    ring = KeyRing(["plain", hash_key("hashed"), hash_key("shouted").upper().replace("SHA256", "sha256")])
    assert hash_key("hashed") == "sha256:" + hashlib.sha256(b"hashed").hexdigest()
    owners = {ring.owner_of(key) for key in ("plain", "hashed", "shouted")}
    assert len(owners) == 3
    assert None not in owners
    for wrong in ("", "plai", "plain ", hash_key("hashed"), "ä"):
        assert ring.owner_of(wrong) is None


def test_an_owner_tells_nothing_of_the_key():
    name = KeyRing(["plain"]).owner_of("plain")
    assert len(name) == 32
    assert name not in hash_key("plain")
    assert name == KeyRing([hash_key("plain")]).owner_of("plain")


def test_no_plain_key_is_kept():
    ring = KeyRing(["very-secret"])
    assert "very-secret" not in str(vars(ring))
    assert load_config({"SAM_API_KEYS": "very-secret"}, None).api_keys == (hash_key("very-secret"),)


@pytest.mark.parametrize("entry", ["sha256:", "sha256:12ab", "sha256:" + "g" * 64])
def test_a_damaged_hash_stops_the_start(entry):
    with pytest.raises(ConfigError, match=r"SAM_API_KEYS=\(secret\) is not valid; options: keys or sha256:HEX"):
        load_config({"SAM_API_KEYS": f"good,{entry}"}, None)


def run(*arguments: str, given: str = "") -> str:
    command = [sys.executable, "-m", "sam_config", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_command_makes_a_key_that_works():
    first, second = run("--new-key"), run("--new-key")
    assert first != second
    key, entry = (line.rpartition(": ")[2] for line in first.replace("sha256:", "sha256-").splitlines())
    entry = entry.replace("sha256-", "sha256:")
    assert len(key) >= 43  # 32 bytes
    assert KeyRing([entry]).owner_of(key)
    assert run("--hash-key", given=f"{key}\n").strip() == entry


@pytest.mark.parametrize("given", ["", "\n", "two,keys\n"])
def test_the_command_refuses_what_is_no_key(given):
    command = [sys.executable, "-m", "sam_config", "--hash-key"]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.fixture
def client(make_state):
    """A client of a server with two keys, one of them hashed."""
    return make_app(make_state(api_keys=("key-of-ann", hash_key("key-of-bob")))).test_client()


@pytest.fixture
def made(client, coins) -> dict[str, str]:
    """What Ann has: ids by the name that they have in routes."""
    answer = client.post("/sessions", data=coins, content_type="image/png", headers=ANN)
    session = answer.json["session_id"]
    found = client.post("/generate_masks", json={"session_id": session, **SEARCH}, headers=ANN)
    job = client.post(
        "/generate_masks", json={"session_id": session, **SEARCH}, headers={**ANN, "Prefer": "respond-async"}
    )
    assert (answer.status_code, found.status_code, job.status_code) == (201, 200, 202)
    return {"session_id": session, "mask_set_id": found.json["mask_set_id"], "job_id": job.json["job_id"]}


def same_but_for_ids(answer, name: str) -> dict:
    """A problem document without what differs between two requests for two ids."""
    document = dict(answer.json)
    document.pop("request_id")
    return {**document, "detail": document["detail"].replace(name, "ID")}


def test_every_address_with_an_id_is_unknown_to_a_foreign_key(client, made):
    rules = [rule for rule in client.application.url_map.iter_rules() if rule.arguments & made.keys()]
    asked = [(rule, method) for rule in rules for method in rule.methods - {"OPTIONS", "HEAD"}]
    assert len(asked) >= 7
    for rule, method in sorted(asked, key=lambda pair: (pair[1] == "DELETE", pair[0].rule)):
        [name] = rule.arguments
        path = rule.rule.replace(f"<{name}>", made[name])
        unknown = client.open(path.replace(made[name], "0" * 32), method=method, headers=BOB)
        foreign = client.open(path, method=method, headers=BOB)
        assert (foreign.status_code, unknown.status_code) == (404, 404), (method, path)
        assert same_but_for_ids(foreign, made[name]) == same_but_for_ids(unknown, "0" * 32)
        # Still there for the one it belongs to, who goes on to delete it last.
        own = client.open(path, method=method, headers=ANN)
        assert own.status_code in (200, 204), (method, path)
        own.close()


@pytest.mark.parametrize("path", ["/segment", "/generate_masks", "/group_masks", "/mask_sets"])
def test_every_body_with_a_session_is_unknown_to_a_foreign_key(client, made, path):
    masks = [{"segmentation": {"size": [303, 384], "counts": [0, 3, 303 * 384 - 3]}}]
    fields = {"/segment": POINT, "/generate_masks": SEARCH, "/group_masks": {}, "/mask_sets": {"masks": masks}}[path]
    body = {"session_id": made["session_id"], **fields}
    foreign = client.post(path, json=body, headers=BOB)
    assert (foreign.status_code, foreign.json["code"]) == (404, "unknown_session")
    assert client.post(path, json=body, headers=ANN).status_code in (200, 201)


def test_a_mask_set_is_not_grouped_by_a_foreign_key(client, made):
    body = {"mask_set_id": made["mask_set_id"]}
    foreign = client.post("/group_masks", json=body, headers=BOB)
    assert (foreign.status_code, foreign.json["code"]) == (404, "unknown_mask_set")
    assert client.post("/group_masks", json=body, headers=ANN).status_code == 200


def test_the_same_picture_is_a_session_of_each_key(client, coins):
    ids = [
        client.post("/sessions", data=coins, content_type="image/png", headers=head).json["session_id"]
        for head in (ANN, BOB)
    ]
    for head, own, foreign in ((ANN, *ids), (BOB, *reversed(ids))):
        assert client.post("/segment", json={"session_id": own, **POINT}, headers=head).status_code == 200
        assert client.post("/segment", json={"session_id": foreign, **POINT}, headers=head).status_code == 404


def test_without_keys_whoever_knows_an_id_may_use_it(make_state, coins):
    app = make_app(make_state())
    session = app.test_client().post("/sessions", data=coins, content_type="image/png").json["session_id"]
    answer = app.test_client().post("/segment", json={"session_id": session, **POINT}, headers=BOB)
    assert answer.status_code == 200
