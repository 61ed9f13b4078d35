import json

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.ndimage import gaussian_filter

from backend_loader import TINY_DIR, load_backend
from sam_config import load_config
from sam_server.backend import SamBackend
from sam_server.grouping.presets import preset
from sam_server.masks.rle import Rle, encode
from training.coins import COINS, coin_masks, coins_image
from training.evaluate import main
from training.export import export
from training.protocol import LabelledPicture, Measured, iou, photographs
from training.protocol_automatic import Found, count_found, match, match_automatic, mean_of_pictures
from training.report import calibration, correlation, rows, table
from training.trainer import Trainer


def test_evaluation_runs_on_a_small_set(small_config, tmp_path, monkeypatch, capsys):
    export(Trainer(small_config).average, small_config.variant, tmp_path, "small.safetensors")
    out = tmp_path / "figures"
    arguments = ["--checkpoint", str(tmp_path / "small.safetensors"), "--kinds", "coins", "letters", "--scenes", "1"]
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments, "--out", str(out)])
    main()
    printed = capsys.readouterr().out
    assert "2 held-out scenes" in printed
    assert "correlation of predicted and real IoU" in printed
    assert "of 24 by one click" in printed
    lines = json.loads((out / "evaluation.json").read_text())
    assert [line["kind"] for line in lines] == ["coins", "letters", "all", "coins photograph"]
    assert all(0 <= value <= 1 for line in lines for value in line["values"].values())
    assert (out / "evaluation.png").stat().st_size > 5000


def test_onnx_files_are_measured_by_the_same_protocol(tmp_path, monkeypatch):
    lines = {}
    for name, model in (("pytorch", []), ("onnx", ["--onnx", str(TINY_DIR)])):
        out = tmp_path / name
        arguments = [*model, "--kinds", "coins", "--scenes", "1", "--out", str(out)]
        monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
        main()
        lines[name] = json.loads((out / "evaluation.json").read_text())
    for one, other in zip(lines["pytorch"], lines["onnx"], strict=True):
        assert one["values"] == pytest.approx(other["values"], abs=0.01)


def test_a_model_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate", "--checkpoint", "none.pth"])
    with pytest.raises(SystemExit, match=r"error: none\.pth: there is no such file"):
        main()


def measured(kind: str, real: list[float], predicted: list[float]) -> Measured:
    numbers = np.array(predicted, np.float32), np.array(real, np.float32)
    chosen = real[int(np.argmax(predicted))]
    return Measured(kind, 100, chosen, max(real), 0.5, 0.7, 0.6, *numbers)


class TestReport:
    def test_table(self):
        items = [measured("a", [0.2, 0.9, 0.4], [0.1, 0.8, 0.5]), measured("b", [0.5, 0.3, 0.1], [0.2, 0.6, 0.1])]
        lines = rows(items)
        assert [line.kind for line in lines] == ["a", "b", "all"]
        assert lines[2].objects == 2
        assert lines[2].values["click"] == pytest.approx(0.6)
        assert lines[2].values["best"] == pytest.approx(0.7)
        assert "| all | 2 | 0.600 | 0.700 | 0.500 | 0.700 | 0.600 |" in table(lines)

    def test_correlation_and_calibration(self):
        items = [measured("a", [0.1, 0.5, 0.95], [0.1, 0.5, 0.95])]
        assert correlation(items) == pytest.approx(1.0)
        assert [(low, count) for low, _, _, count in calibration(items)] == [(0.0, 1), (0.4, 1), (0.9, 1)]


def counts(found: Found) -> tuple[int, int, int]:
    return found.objects, found.masks, found.matched


class TestAutomaticMasks:
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :5], masks[1, :5], masks[2, 6:], masks[3, 8:, 8:] = True, True, True, True
    half, again, other, small = (encode(mask) for mask in masks)

    def test_matches_are_one_to_one(self):
        def matched(found: list[Rle], truth: list[Rle]) -> int:
            return count_found([match(found, truth, 0.75)]).matched

        assert matched([self.half, self.again], [self.half]) == 1
        assert matched([self.half], [self.half, self.other]) == 1
        assert matched([self.half, self.again, self.other], [self.other, self.half]) == 2
        assert matched([], [self.half]) == matched([self.half], []) == 0
        assert iou(self.masks[0], self.masks[2]) == 0

    def test_the_best_pair_goes_first(self):
        larger = self.masks[0].copy()
        larger[5, :5] = True
        found = match([self.half, encode(larger)], [encode(larger), self.half], 0.75)
        assert found.object_of.tolist() == [1, 0]

    def test_recall_and_precision(self):
        matching = match([self.half, self.again, self.small], [self.half, self.other], 0.75)
        found = count_found([matching, matching])
        assert counts(found) == (4, 6, 2)
        assert (found.recall, found.precision) == (0.5, pytest.approx(1 / 3))

    def test_every_picture_counts_alike(self):
        full = match([self.half], [self.half], 0.75)
        poor = match([self.half, self.again, self.small], [self.half, self.other], 0.75)
        empty = match([], [], 0.75)
        assert mean_of_pictures([full, poor, empty]) == (pytest.approx(0.75), pytest.approx(2 / 3))
        assert np.isnan(mean_of_pictures([empty])).all()

    def test_mean_iou_is_that_of_the_pairs(self):
        smaller = self.masks[0].copy()
        smaller[0, :] = False
        matching = match([encode(smaller), self.other, self.small], [self.half, self.other], 0.75)
        assert count_found([matching]).mean_iou == pytest.approx((0.8 + 1) / 2)
        assert np.isnan(count_found([match([self.small], [self.half], 0.75)]).mean_iou)

    def test_what_is_too_small_counts_neither_way(self):
        def large(found: list[Rle], truth: list[Rle]) -> tuple[int, int, int]:
            return counts(count_found([match(found, truth, 0.75)], min_area=10))

        assert large([self.half, self.small], [self.half, self.small]) == (1, 1, 1)
        assert large([self.half], [self.half, self.small]) == (1, 1, 1)
        assert large([self.half, self.small], [self.half]) == (1, 1, 1)
        assert large([self.half, self.other], [self.half, self.small]) == (1, 2, 1)

    def test_what_is_not_wanted_counts_neither_way(self):
        wanted = np.array([False, True])
        for masks in ([self.half, self.other], [self.other]):
            assert counts(count_found([match(masks, [self.half, self.other], 0.75, wanted)])) == (1, 1, 1)

    def test_a_preset_is_not_there_for_what_the_edge_cuts(self, tiny):
        image, discs = draw_discs(210, 210, 210)
        image += np.random.default_rng(0).integers(0, 8, image.shape, np.uint8)
        picture = LabelledPicture("discs", np.repeat(image[..., None], 3, axis=2), discs)
        coarse = {"points_per_side": 12}
        kept = match_automatic(tiny, [picture], 0.75, preset("droplets"), coarse)
        assert counts(count_found(kept)) == (2, 2, 2)
        found = count_found(match_automatic(tiny, [picture], 0.75, search=coarse))
        assert (found.objects, found.matched) == (3, 3)

    def test_a_preset_is_not_there_for_what_nobody_sees(self, tiny):
        """The last disc is a grey level brighter than the ground."""
        image, discs = draw_discs(210, 210, 210, 61)
        picture = LabelledPicture("discs", np.repeat(image[..., None], 3, axis=2), discs)
        coarse = {"points_per_side": 12}
        kept = match_automatic(tiny, [picture], 0.75, preset("droplets"), coarse)
        assert counts(count_found(kept)) == (2, 2, 2)
        found = count_found(match_automatic(tiny, [picture], 0.75, search=coarse))
        assert (found.objects, found.matched) == (4, 3)

    def test_a_search_takes_its_parameters(self, tiny):
        """The one point, in the middle, lies on no disc."""
        image, discs = draw_discs(210, 210, 210)
        picture = LabelledPicture("discs", np.repeat(image[..., None], 3, axis=2), discs)
        assert count_found(match_automatic(tiny, [picture], 0.75, search={"points_per_side": 1})).matched == 0


@pytest.fixture(scope="module")
def tiny() -> SamBackend:
    backend, _ = load_backend(load_config({"SAM_MODEL_TYPE": "tiny"}, env_file=None))
    return backend


def draw_discs(*levels: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(256, 256) uint8 picture of discs of these grey levels on one of 60, and their masks; the edge cuts the third."""
    rows, columns = np.ogrid[:256, :256]
    places = ((80, 80), (180, 170), (250, 60), (60, 190))[: len(levels)]
    discs = tuple((columns - x) ** 2 + (rows - y) ** 2 <= 30**2 for x, y in places)
    image = np.full((256, 256), 60, np.float32)
    for disc, level in zip(discs, levels, strict=True):
        image[disc] = level
    return np.rint(gaussian_filter(image, 1.0)).astype(np.uint8), discs


def test_coins_are_outlined():
    masks = coin_masks()
    assert len(masks) == COINS
    assert coins_image().shape == (303, 384, 3)
    assert all(900 < np.count_nonzero(mask) < 4000 for mask in masks)
    assert np.sum(masks, axis=0).max() == 1


def test_photographs_with_human_segments(tmp_path):
    segments = np.ones((40, 60), np.uint16)
    segments[:, 30:] = 2
    segments[:3, :3] = 3
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "1.jpg")
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"Segmentation": segments}
    scipy.io.savemat(tmp_path / "1.mat", {"groundTruth": cell})
    (picture,) = photographs(tmp_path)
    assert picture.image.shape == (40, 60, 3)
    assert [np.count_nonzero(mask) for mask in picture.masks] == [1191, 1200]
