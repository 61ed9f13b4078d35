"""The shipped model on a real picture: the 24 coins of `skimage.data.coins`, by clicks and by the droplets preset."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage
from skimage import data, filters, measure, segmentation

from app import create_app
from backend_loader import load_backend
from sam_config import load_config
from sam_server.arrays import BoolArray
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt

COINS = 24
# How many must be found, and how well: two may hide in the shadow at the left edge.
ENOUGH_COINS = 22
GOOD_IOU = 0.9
SPECK = 100  # pixels; what is smaller is no coin
# Without any click, as the preset promises it.
FOUND_IOU = 0.75
MOST_FALSE = 3


@pytest.fixture(scope="module")
def coins() -> list[BoolArray]:
    """A mask of each coin by classical means: watershed on the edges, from what is surely dark and surely bright."""
    picture = data.coins()
    markers = np.zeros(picture.shape, np.int32)
    markers[picture < 30] = 1
    markers[picture > 150] = 2
    filled = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(picture), markers) == 2)
    labels = measure.label(filled)
    masks = [labels == region.label for region in measure.regionprops(labels) if region.area > SPECK]
    assert len(masks) == COINS
    return masks


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_backend(load_config({"SAM_MODEL_TYPE": "tiny"}, env_file=None))[0])


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> FlaskClient:
    return create_app(load_config({"SAM_MODEL_TYPE": "tiny"}, env_file=None), predictor.backend).test_client()


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(data.coins()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def session_id(client: FlaskClient, picture: bytes) -> str:
    answer = client.post("/sessions", data=picture, content_type="image/png")
    assert answer.status_code == 201, answer.text
    return answer.json["session_id"]


def centre(mask: BoolArray) -> list[float]:
    rows, columns = np.nonzero(mask)
    return [float(columns.mean()), float(rows.mean())]


def box(mask: BoolArray) -> list[float]:
    rows, columns = np.nonzero(mask)
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def iou(first: BoolArray, second: BoolArray) -> float:
    return float((first & second).sum() / (first | second).sum())


def check(found: Sequence[BoolArray], coins: Sequence[BoolArray]) -> None:
    scores = [iou(mask, coin) for mask, coin in zip(found, coins, strict=True)]
    good = sum(score >= GOOD_IOU for score in scores)
    assert good >= ENOUGH_COINS, f"{good} of {COINS} coins; IoU {np.round(sorted(scores), 2)}"


def best_masks(client: FlaskClient, request: dict) -> tuple[list[BoolArray], list[str]]:
    """The mask with the highest predicted IoU for each prompt of a request, and their ids."""
    answer = client.post("/segment", json=request)
    assert answer.status_code == 200, answer.text
    best = [max(item["masks"], key=lambda record: record["predicted_iou"]) for item in answer.json["results"]]
    masks = [coco.decode(record["segmentation"]).astype(bool) for record in best]
    return masks, [record["mask_id"] for record in best]


def test_a_click_on_each_coin(predictor: Predictor, coins: list[BoolArray]) -> None:
    embedding = predictor.encode(np.stack([data.coins()] * 3, axis=-1))
    answers = predictor.predict(embedding, [make_prompt([centre(coin)]) for coin in coins])
    check([answer.mask(int(answer.iou.argmax())) for answer in answers], coins)


def test_a_click_on_each_coin_over_http(client: FlaskClient, session_id: str, coins: list[BoolArray]) -> None:
    prompts = [{"points": [centre(coin)]} for coin in coins]
    masks, _ = best_masks(client, {"session_id": session_id, "prompts": prompts})
    check(masks, coins)


def test_a_box_around_each_coin_over_http(client: FlaskClient, session_id: str, coins: list[BoolArray]) -> None:
    prompts = [{"box": box(coin)} for coin in coins]
    masks, _ = best_masks(client, {"session_id": session_id, "prompts": prompts})
    check(masks, coins)


def test_a_second_click_refines_over_http(client: FlaskClient, session_id: str, coins: list[BoolArray]) -> None:
    """First a click off the centre, then one more inside the coin that continues from the mask."""
    first = [[centre(coin)[0], centre(coin)[1] - 6] for coin in coins]
    _, ids = best_masks(client, {"session_id": session_id, "prompts": [{"points": [point]} for point in first]})
    prompts = [
        {"points": [point, centre(coin)], "mask_id": mask_id}
        for point, coin, mask_id in zip(first, coins, ids, strict=True)
    ]
    request = {"session_id": session_id, "prompts": prompts, "multimask_output": False}
    masks, _ = best_masks(client, request)
    check(masks, coins)


def check_droplets(masks: Sequence[BoolArray], groupings: Sequence[dict], coins: Sequence[BoolArray]) -> None:
    """Enough coins, hardly anything else, and a class of large and one of small coins."""
    shown = [{number for number, coin in enumerate(coins) if iou(mask, coin) >= FOUND_IOU} for mask in masks]
    found, false = set().union(*shown), sum(not numbers for numbers in shown)
    print(f"{len(found)} of {COINS} coins, {false} false")
    assert len(found) >= ENOUGH_COINS, f"missed {set(range(COINS)) - found}"
    assert false <= MOST_FALSE, f"{false} false"
    large, small = groupings[0]["groups"]
    diameters = [group["statistics"]["measures"]["equivalent_diameter_area"] for group in (large, small)]
    assert min(len(large["masks"]), len(small["masks"])) >= 5
    assert diameters[0]["min"] > diameters[1]["max"]


def test_the_droplets_preset_finds_the_coins_over_http(
    client: FlaskClient, picture: bytes, coins: list[BoolArray]
) -> None:
    """In one call, with nothing but the picture and the preset."""
    query = {"preset": "droplets"}
    answer = client.post("/group_masks", data=picture, content_type="image/png", query_string=query)
    assert answer.status_code == 200, answer.text
    records = client.get(f"/mask_sets/{answer.json['mask_set_id']}").json["masks"]
    masks = [coco.decode(records[i]["segmentation"]).astype(bool) for i in answer.json["kept"]]
    check_droplets(masks, answer.json["groupings"], coins)
