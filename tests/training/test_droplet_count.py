"""The count of drawn droplets: true masks give the truth, missing ones are missed, and the scene shows its droplets."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from werkzeug.serving import make_server

from app import create_app
from backend_loader import load_backend
from sam_config import load_config
from sam_server.arrays import ByteArray
from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from tests.grouping.droplet_scenes import draw_droplets
from tests.serving import serving
from training.droplet_count import FILTERS, SEARCH, SIZE, TILES, count_through_server, draw, find_droplets
from training.droplet_protocol import Counted, compare, shown_in, total
from training.droplet_scene import Disc, coverage, disc_mask
from training.protocol_automatic import Found
from training.scene_canvas import Canvas

# Rows and columns of the part of a scene that is counted whole: one tile.
SIDE = 640


@pytest.mark.parametrize("left_out", [0, 100])
def test_true_masks_give_the_truth(left_out: int) -> None:
    """The droplets that are left out are the last ones, small and alone."""
    scene = draw_droplets(0, carved=False)
    droplets = preset("droplets")
    masks = MaskSet(scene.masks.size, scene.masks.records[: 500 - left_out])
    result = group_masks(measure_set(masks), droplets.methods, droplets.filters)
    counted = compare(scene.discs, shown_in(masks, result))
    assert counted.true_count == 485
    assert counted.count == counted.matched == 485 - left_out
    assert counted.diameters[1:] == pytest.approx(counted.true_diameters[1:], rel=0.01)
    # Small ones that are missed make the mean of all larger.
    assert (counted.diameters[0] > 1.1 * counted.true_diameters[0]) == (left_out > 0)
    assert counted.satellites >= 0.95
    assert counted.outlined == Found(485, 485 - left_out, 485 - left_out, 1.0)


def test_a_total_adds_scenes_up() -> None:
    one = Counted(90, 100, 80, (40.0, 60.0, 15.0), (42.0, 64.0, 16.0), 0.9, Found(100, 90, 60, 0.9))
    two = Counted(310, 300, 300, (44.0, 68.0, 16.0), (42.0, 64.0, 16.0), 1.0, Found(300, 310, 180, 0.8))
    summed = total([one, two])
    assert (summed.count, summed.true_count, summed.matched) == (400, 400, 380)
    assert (summed.diameters, summed.true_diameters) == ((42.0, 64.0, 15.5), (42.0, 64.0, 16.0))
    assert summed.satellites == pytest.approx(0.95)
    assert summed.outlined == Found(400, 400, 240, pytest.approx(0.825))


@pytest.mark.parametrize("radius", [7.3, 16.0, 33.8])
def test_what_is_painted_is_the_truth(radius: float) -> None:
    """To the pixel, wherever the middle lies."""
    for x, y in np.random.default_rng(0).uniform(50, 70, (20, 2)):
        disc = Disc(x, y, radius, "droplet")
        canvas = Canvas(np.zeros((120, 120, 3), np.float32))
        node = canvas.paint(coverage(disc), x, y, np.ones(3, np.float32))
        np.testing.assert_array_equal(canvas.labels == node, disc_mask(disc, (120, 120)).to_mask())
        assert canvas.image[..., 0].sum() == pytest.approx(np.pi * radius**2, rel=0.005)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with the model that ships."""
    app = create_app(load_config({"SAM_MODEL_TYPE": "tiny"}, env_file=None))
    with serving(make_server("127.0.0.1", 0, app, threaded=True)) as url:
        yield url


def window(scene: tuple[list[Disc], ByteArray], left: int, top: int) -> tuple[list[Disc], ByteArray]:
    """SIDE rows and columns of a scene, and the droplets seen there; those that are cut now are at the edge."""
    discs = seen([replace(disc, x=disc.x - left, y=disc.y - top) for disc in scene[0]])
    return discs, np.ascontiguousarray(scene[1][top : top + SIDE, left : left + SIDE])


def seen(discs: list[Disc]) -> list[Disc]:
    """The droplets of which the first SIDE rows and columns show something."""
    shown: list[Disc] = []
    number: dict[int, int] = {}
    for old, disc in enumerate(discs):
        first, last = min(disc.x, disc.y) - disc.radius, max(disc.x, disc.y) + disc.radius
        if min(disc.x, disc.y) + disc.radius <= 0 or max(disc.x, disc.y) - disc.radius >= SIDE:
            continue
        number[old] = len(shown)
        host = number.get(disc.host, -1)
        kind = disc.kind if first >= 1 and last <= SIDE - 1 else "edge"
        if kind == "satellite" and (host < 0 or shown[host].kind == "edge"):  # on a droplet that is not counted
            kind, host = "small droplet", -1
        shown.append(replace(disc, kind=kind, host=host))
    return shown


def test_the_model_that_ships_counts_sizes_and_assigns_through_a_server(url: str) -> None:
    discs, picture = window(draw(4, 2), 0, 0)
    counted = count_through_server(url, discs, picture, 2)
    assert counted.true_count == 13
    assert counted.count == pytest.approx(counted.true_count, abs=1)
    assert counted.matched >= counted.true_count - 1
    assert counted.diameters == pytest.approx(counted.true_diameters, rel=0.1)
    assert counted.satellites >= 0.95


def test_what_the_model_sees_on_bare_ground_has_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    # The model that ships predicts too low an IoU on bare ground for what is asked elsewhere.
    monkeypatch.setitem(SEARCH, "pred_iou_thresh", 0.1)
    discs, picture = window(draw(3, 2), 2000, 1000)  # where the traces of compression are many
    droplets = preset("droplets")
    backend, _ = load_backend(load_config({"SAM_MODEL_TYPE": "tiny"}, env_file=None))
    masks = find_droplets(backend, picture, 2)
    asked_for = replace(droplets.filters, **FILTERS)
    bare, asked = (
        compare(discs, shown_in(masks, group_masks(measure_set(masks), droplets.methods, chosen)))
        for chosen in (replace(asked_for, min_edge_contrast=None), asked_for)
    )
    assert bare.count >= asked.count + 3  # false ones, beside twelve droplets
    assert bare.matched == asked.matched == asked.true_count
    assert asked.count == asked.true_count


@pytest.mark.parametrize("magnification", TILES)
def test_the_picture_shows_the_droplets(magnification: int) -> None:
    size = (SIZE[0] * magnification, SIZE[1] * magnification)
    discs, picture = draw(1, magnification)
    assert (picture.shape, picture.dtype) == ((*size, 3), np.uint8)
    rows, columns = np.ogrid[: size[0], : size[1]]
    bare = np.ones(size, np.bool_)
    for disc in discs:
        left, top = (max(0, int(place - disc.radius - 4)) for place in (disc.x, disc.y))
        part = np.s_[top : int(disc.y + disc.radius) + 5, left : int(disc.x + disc.radius) + 5]
        away = np.hypot(columns[:, part[1]] + 0.5 - disc.x, rows[part[0]] + 0.5 - disc.y)
        bare[part] &= away > disc.radius + 3
    assert picture[~bare].std() > 1.2 * picture[bare].std()
