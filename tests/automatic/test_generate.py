"""The whole way with a small model: progress, cancel, embeddings at hand, tiles, features, bounded memory."""

import threading
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from skimage import data

from pytorch_sam_wrapper import PyTorchSam
from sam_server.automatic import search
from sam_server.automatic.generate import generate
from sam_server.automatic.output import to_dicts
from sam_server.automatic.parameters import AutomaticParameters, ParameterError
from sam_server.automatic.search import CancelledError, Progress
from sam_server.backend import ImageEmbedding, PreparedImage
from sam_server.masks.features import edge_contrasts
from sam_server.masks.mask_set import MaskSet
from sam_server.network.sam import build_sam
from sam_server.network.variants import SamVariant
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt

VARIANT = SamVariant(
    "small",
    width=32,
    depth=1,
    heads=2,
    window=4,
    global_blocks=(0,),
    image_size=256,
    embedding_channels=32,
    decoder_heads=2,
    decoder_mlp=64,
)
PICTURE = data.chelsea()

# Peak of memory while masks that fill the picture are made. One mask of 64 points in the reference takes 768.
BYTES_PER_PIXEL = 12

# Random weights score low; keep what they find.
KEEP = AutomaticParameters(
    points_per_side=6, pred_iou_thresh=0, stability_score_thresh=0, stability_score_offset=0.01, box_nms_thresh=0.99
)


class CountingSam(PyTorchSam):
    """Counts the pictures it encodes."""

    encoded = 0

    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        self.encoded += len(images)
        return super().encode(images)


@pytest.fixture
def backend() -> CountingSam:
    torch.manual_seed(0)
    sam = build_sam(VARIANT)
    probe = CountingSam(sam, torch.device("cpu"), "fp32")
    predictor = Predictor(probe)
    logits = predictor.predict(predictor.encode(PICTURE), [make_prompt([[200, 100]])])[0].logits
    # Masks of a few islands, not of half of the picture.
    sam.variant = replace(VARIANT, mask_threshold=float(np.quantile(logits, 0.9)))
    return CountingSam(sam, torch.device("cpu"), "fp32")


def same(a: MaskSet, b: MaskSet) -> bool:
    return a.records == b.records


def test_masks_carry_sa_1b_s_fields_and_features(backend: CountingSam) -> None:
    masks = generate(backend, PICTURE, KEEP)
    assert len(masks) > 3
    assert masks.size == PICTURE.shape[:2]
    assert masks.colours is not None
    assert masks.embeddings is not None
    assert masks.embeddings.shape == (len(masks), VARIANT.embedding_channels)
    np.testing.assert_array_equal(masks.edge_contrasts, edge_contrasts(PICTURE, masks.records))
    for record, colour in zip(masks.records, masks.colours, strict=True):
        mask = record.to_mask()
        assert record.area == mask.sum()
        assert record.bbox == record.segmentation.bbox
        assert record.crop_box == (0, 0, 451, 300)
        assert len(record.point_coords) == 1
        if record.area:
            np.testing.assert_allclose(colour, PICTURE[mask].mean(axis=0), rtol=1e-4)


def test_an_embedding_at_hand_is_used(backend: CountingSam) -> None:
    embedding = Predictor(backend).encode(PICTURE)
    expected = generate(backend, PICTURE, KEEP)
    assert backend.encoded == 2
    assert same(generate(backend, PICTURE, KEEP, embedding=embedding), expected)
    assert backend.encoded == 2
    generate(backend, PICTURE, replace(KEEP, crop_n_layers=1, points_per_side=1), embedding=embedding)
    assert backend.encoded == 6, "four crops, and not the picture again"


def test_the_size_of_a_batch_changes_nothing(backend: CountingSam) -> None:
    assert same(generate(backend, PICTURE, replace(KEEP, points_per_batch=4)), generate(backend, PICTURE, KEEP))


def test_progress_counts_crops_points_and_masks(backend: CountingSam) -> None:
    seen: list[Progress] = []
    parameters = replace(KEEP, points_per_side=3, crop_n_layers=1, points_per_batch=4)
    generate(backend, PICTURE, parameters, progress=seen.append)
    assert seen[-1].crops_done == seen[-1].crops == 5
    assert seen[-1].points_done == seen[-1].points == 5 * 9
    assert seen[-1].masks == 5 * 9 * 3
    for before, after in pairwise(seen):
        assert (before.crops_done, before.points_done) <= (after.crops_done, after.points_done)
        assert after.points_done - before.points_done <= 4


def test_cancel_stops_within_a_chunk(backend: CountingSam) -> None:
    stop, seen = threading.Event(), []

    def progress(state: Progress) -> None:
        seen.append(state)
        if state.points_done >= 8:
            stop.set()

    with pytest.raises(CancelledError):
        generate(backend, PICTURE, replace(KEEP, points_per_batch=4), progress=progress, cancelled=stop.is_set)
    assert seen[-1].points_done == 8
    with pytest.raises(CancelledError):
        generate(backend, PICTURE, KEEP, cancelled=lambda: True)


def test_finishing_early_changes_nothing(backend: CountingSam, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = replace(KEEP, stability_score_thresh=0.8, box_nms_thresh=0.7)
    expected = generate(backend, PICTURE, parameters)
    monkeypatch.setattr(search, "MAX_WAITING_BYTES", 10_000)
    assert same(generate(backend, PICTURE, parameters), expected)


def test_no_mask_is_no_error(backend: CountingSam) -> None:
    masks = generate(backend, PICTURE, replace(KEEP, pred_iou_thresh=1, crop_n_layers=1, min_mask_region_area=10))
    assert len(masks) == 0
    assert to_dicts(masks) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (90, 2), (7, 5)])
def test_pictures_of_few_pixels(backend: CountingSam, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    masks = generate(backend, pixels, replace(KEEP, points_per_side=2, crop_n_layers=2, min_mask_region_area=2))
    assert masks.size == shape


def test_a_picture_within_one_tile_is_searched_as_a_whole(backend: CountingSam) -> None:
    assert same(generate(backend, PICTURE, replace(KEEP, tile_size=451)), generate(backend, PICTURE, KEEP))


def test_tiles_are_searched_one_by_one(backend: CountingSam) -> None:
    seen: list[Progress] = []
    parameters = replace(KEEP, points_per_side=3, tile_size=200, tile_overlap=40)
    masks = generate(backend, PICTURE, parameters, progress=seen.append)
    assert seen[-1].crops == seen[-1].crops_done == 6
    assert seen[-1].points_done == 6 * 9
    assert backend.encoded == 7, "six tiles, and the picture for the masks' features"
    for record in masks.records:
        assert record.segmentation.size == PICTURE.shape[:2]


def test_too_many_tiles_are_refused_before_any_work(backend: CountingSam) -> None:
    pixels = np.zeros((4000, 4000, 3), np.uint8)
    with pytest.raises(ParameterError, match="tile_size"):
        generate(backend, pixels, AutomaticParameters(tile_size=256))
    assert backend.encoded == 0


@pytest.mark.parametrize("output_mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_output_modes_hold_the_same_masks(backend: CountingSam, output_mode: str) -> None:
    masks = generate(backend, PICTURE, KEEP)
    for record, entry in zip(masks.records, to_dicts(masks, output_mode), strict=True):  # type: ignore[arg-type]
        found = entry["segmentation"]
        if output_mode == "uncompressed_rle":
            assert sum(found["counts"]) == PICTURE.shape[0] * PICTURE.shape[1]
            found = coco.frPyObjects(found, *found["size"])
        if output_mode != "binary_mask":
            found = coco.decode(found).astype(np.bool_)
        np.testing.assert_array_equal(found, record.to_mask())


def test_an_unknown_output_mode_is_refused(backend: CountingSam) -> None:
    with pytest.raises(ValueError, match="output_mode"):
        to_dicts(generate(backend, PICTURE, replace(KEEP, points_per_side=1)), "png")  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_number_of_masks_on_a_large_picture(backend: CountingSam) -> None:
    pixels = np.asarray(Image.fromarray(PICTURE).resize((2000, 1500)))
    embedding = Predictor(backend).encode(pixels)
    peaks, counts = [], []
    for points_per_side in (2, 6):
        tracemalloc.start()
        masks = generate(backend, pixels, replace(KEEP, points_per_side=points_per_side), embedding=embedding)
        peaks.append(tracemalloc.get_traced_memory()[1] / pixels[..., 0].size)
        tracemalloc.stop()
        counts.append(len(masks))
    print(f"peak memory {peaks[0]:.1f} and {peaks[1]:.1f} bytes a pixel with {counts[0]} and {counts[1]} masks")
    assert counts[1] > 2 * counts[0]
    # One byte a pixel for one mask at a time, and its copies while it is encoded.
    assert peaks[1] < BYTES_PER_PIXEL
    assert peaks[1] < 1.5 * peaks[0]
