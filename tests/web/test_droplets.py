"""The droplets preset over HTTP: the numbers that hold within the process hold for masks that a caller brings."""

import numpy as np
import pytest

from sam_server.web.application import make_app
from tests.grouping.droplet_scenes import PIXEL_SIZE, UNIT, check_droplets, draw_droplets
from training.droplet_scene import SIZE


@pytest.fixture(scope="module")
def client(lasting_state):
    return make_app(lasting_state).test_client()


@pytest.fixture(scope="module")
def session(client, to_file) -> str:
    picture = to_file(np.zeros(SIZE, np.uint8))
    return client.post("/sessions", data=picture, content_type="image/png").json["session_id"]


@pytest.mark.parametrize("seed", range(20))
def test_droplets_are_counted_sized_and_assigned(client, session, seed):
    scene = draw_droplets(seed, carved=False)
    masks = [
        {"segmentation": record.segmentation.to_dict(), "predicted_iou": record.predicted_iou}
        for record in scene.masks.records
    ]
    made = client.post("/mask_sets", json={"session_id": session, "masks": masks})
    assert made.status_code == 201, made.json
    fields = {"mask_set_id": made.json["mask_set_id"], "preset": "droplets", "pixel_size": PIXEL_SIZE, "unit": UNIT}
    answer = client.post("/group_masks", json=fields)
    assert answer.status_code == 200, answer.json
    assert answer.json["count"] == 500
    check_droplets(scene, answer.json, 0.02)
