"""POST /segment: formats, prompts of every kind, refinement, and the same masks as the predictor's own."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from skimage import data

from sam_server.masks import polygons
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt
from sam_server.web.schemas import MaskOut, SegmentOut

POINT = {"points": [[120, 80]], "point_labels": [1]}
BOX = {"box": [40, 30, 200, 190]}
BOTH = {"points": [[120.5, 80.25], [60, 60]], "point_labels": [1, 0], "box": [40, 30, 200, 190]}


@pytest.fixture
def session(client, coins) -> str:
    answer = client.post("/sessions", data=coins, content_type="image/png")
    return answer.json["session_id"]


def masks_of(answer) -> list:
    assert answer.status_code == 200, answer.json
    return [
        [coco.decode(mask["segmentation"]).astype(bool) for mask in item["masks"]] for item in answer.json["results"]
    ]


def expected(backend, prompt: dict, multimask: bool = True, mask_input=None):
    predictor = Predictor(backend)
    embedding = predictor.encode(np.stack([data.coins()] * 3, axis=-1))
    asked = make_prompt(prompt.get("points"), prompt.get("point_labels"), prompt.get("box"), mask_input)
    return predictor.predict(embedding, [asked], multimask)[0]


@pytest.mark.parametrize("prompt", [POINT, BOX, BOTH])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_are_those_of_the_predictor_best_first(client, session, backend, prompt, multimask):
    answer = client.post("/segment", json={"session_id": session, **prompt, "multimask_output": multimask})
    alone = expected(backend, prompt, multimask)
    order = np.argsort(-alone.iou, kind="stable")
    assert len(order) == (3 if multimask else 1)
    for mask, record, index in zip(masks_of(answer)[0], answer.json["results"][0]["masks"], order, strict=True):
        np.testing.assert_array_equal(mask, alone.mask(index))
        assert record["predicted_iou"] == pytest.approx(float(alone.iou[index]))
        assert record["area"] == int(mask.sum())
        assert 0 <= record["stability_score"] <= 1
        assert record["point_coords"] == prompt.get("points", [])
        assert record["crop_box"] == [0, 0, 384, 303]


def test_the_answer_has_the_documented_fields_and_timings(client, session):
    answer = client.post("/segment", json={"session_id": session, **POINT})
    assert set(answer.json) == set(SegmentOut.model_fields)
    SegmentOut.model_validate(answer.json)
    assert set(answer.json["results"][0]["masks"][0]) == set(MaskOut.model_fields)
    assert "mask;dur=" in answer.headers["Server-Timing"]
    assert "cache;dur=" in answer.headers["Server-Timing"]


def test_all_formats_say_the_same_mask(client, session):
    def ask(mask_format: str) -> dict:
        answer = client.post("/segment", json={"session_id": session, **BOTH, "mask_format": mask_format})
        SegmentOut.model_validate(answer.json)
        return answer.json["results"][0]["masks"][0]

    rle = ask("rle")
    mask = coco.decode(rle["segmentation"]).astype(bool)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(polygons.to_mask(ask("polygon")["segmentation"]["coordinates"], mask.shape), mask)
    picture = Image.open(io.BytesIO(base64.b64decode(ask("png")["segmentation"])))
    np.testing.assert_array_equal(np.asarray(picture).astype(bool), mask)
    none = ask("none")
    assert "segmentation" not in none
    assert none["bbox"] == rle["bbox"] == coco.toBbox(rle["segmentation"]).tolist()


def test_many_prompts_in_one_call_equal_one_call_each(client, session):
    together = client.post("/segment", json={"session_id": session, "prompts": [POINT, BOX, BOTH, POINT]})
    for prompt, masks in zip([POINT, BOX, BOTH, POINT], masks_of(together), strict=True):
        alone = masks_of(client.post("/segment", json={"session_id": session, **prompt}))[0]
        for one, other in zip(masks, alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_mask_id_continues_from_its_logits(client, session, backend):
    first = client.post("/segment", json={"session_id": session, **POINT}).json["results"][0]["masks"]
    more = {"points": [[120, 80], [40, 40]], "point_labels": [1, 0]}
    refined = client.post(
        "/segment", json={"session_id": session, **more, "mask_id": first[0]["mask_id"], "multimask_output": False}
    )
    begun = expected(backend, POINT)
    logits = begun.logits[int(np.argmax(begun.iou))]
    np.testing.assert_array_equal(masks_of(refined)[0][0], expected(backend, more, False, logits).mask(0))
    without = client.post("/segment", json={"session_id": session, **more, "multimask_output": False})
    assert (masks_of(without)[0][0] != masks_of(refined)[0][0]).any()


def test_the_same_clicks_give_the_same_masks_in_another_session(client, coins):
    def clicks() -> list:
        session = client.post("/sessions", data=coins, content_type="image/png").json["session_id"]
        mask_id, seen = None, []
        for x in (100, 150, 200):
            prompt = {"points": [[x, 90]], "mask_id": mask_id}
            answer = client.post("/segment", json={"session_id": session, **prompt, "multimask_output": False})
            record = answer.json["results"][0]["masks"][0]
            mask_id = record["mask_id"]
            seen.append(record)
        return seen

    assert clicks() == clicks()


def test_a_mask_id_alone_is_a_prompt(client, session):
    first = client.post("/segment", json={"session_id": session, **POINT}).json["results"][0]["masks"][0]["mask_id"]
    answer = client.post("/segment", json={"session_id": session, "mask_id": first})
    assert len(masks_of(answer)[0]) == 3


def test_mask_ids_belong_to_their_session(client, session, coins):
    mask_id = client.post("/segment", json={"session_id": session, **POINT}).json["results"][0]["masks"][0]["mask_id"]
    other = client.post("/sessions", data=coins, content_type="image/png").json["session_id"]
    answer = client.post("/segment", json={"session_id": other, **POINT, "mask_id": mask_id})
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_mask")


def test_a_picture_may_come_with_the_prompt_and_becomes_a_session(client, coins, backend):
    encoded = base64.b64encode(coins).decode()
    point, label = json.dumps(POINT["points"]), json.dumps(POINT["point_labels"])
    query = {"points": point, "point_labels": label, "multimask_output": "false", "mask_format": "rle"}
    answers = [
        client.post("/segment", json={"image": encoded, **POINT, "multimask_output": False}),
        client.post("/segment", data={"image": (io.BytesIO(coins), "c.png"), **query}),
        client.post("/segment", data=coins, content_type="image/png", query_string=query),
        client.post(
            "/segment",
            data={"image": (io.BytesIO(coins), "c.png"), "prompts": json.dumps([POINT]), "multimask_output": "false"},
        ),
    ]
    first = masks_of(answers[0])[0][0]
    for answer in answers:
        np.testing.assert_array_equal(masks_of(answer)[0][0], first)
    assert backend.encoded == 1
    again = client.post(
        "/segment", json={"session_id": answers[2].json["session_id"], **POINT, "multimask_output": False}
    )
    np.testing.assert_array_equal(masks_of(again)[0][0], first)


def test_a_form_may_name_a_session(client, session):
    form = {"session_id": session, "points": "[[120, 80]]", "mask_format": "none"}
    answer = client.post("/segment", data=form, content_type="multipart/form-data")
    assert answer.status_code == 200
