"""Files that segment-anything 1.0 writes load here, strictly and with every value in its place."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import Sam, WeightsError, load_sam
from sam_server.network.variants import VARIANTS, SamVariant
from tests.reference.reference_models import modeling, reference_sam, sam_model_registry

SMALL = SamVariant("small", width=32, depth=2, heads=2, window=3, global_blocks=(1,), image_size=128)


@pytest.mark.parametrize("model_type", ["vit_b", "vit_l", "vit_h"])
def test_official_dimensions(model_type: str, tmp_path: Path) -> None:
    path = tmp_path / f"sam_{model_type}.pth"
    values = write_numbered(model_type, path)
    ours = load_sam(VARIANTS[model_type], load_state_dict(path)).state_dict()
    path.unlink()  # ViT-H has 2.6 GB
    assert ours.keys() == values.keys()
    for key, value in values.items():
        flat = ours[key].view(-1)
        assert flat.dtype == torch.float32
        assert (flat[:-1] == value).all(), key
        assert flat[-1] == -value, key


def write_numbered(model_type: str, path: Path) -> dict[str, float]:
    """Write a checkpoint in which every tensor has a value of its own, told by key, and its last number is negative.

    Drawing random weights for ViT-H would take longer than all the rest.
    """
    with torch.device("meta"):
        reference = sam_model_registry[model_type]()
    weights = reference.to_empty(device="cpu").state_dict()
    values = {key: 0.5 + index for index, key in enumerate(weights)}
    for key, value in values.items():
        weights[key].fill_(value).view(-1)[-1] = -value
    torch.save(reference.state_dict(), path)
    return values


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What the reference writes for small dimensions, random."""
    path = tmp_path / "sam_small.pth"
    torch.save(reference_sam(SMALL).state_dict(), path)
    return path


def load(path: Path) -> Sam:
    return load_sam(SMALL, load_state_dict(path))


def test_weights_arrive_bit_for_bit(checkpoint: Path) -> None:
    reference = reference_sam(SMALL).state_dict()
    ours = load(checkpoint).state_dict()
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[key], reference[key]) for key in reference)


def test_the_reference_reads_what_we_write(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "ours.pth"
    torch.save(load(checkpoint).state_dict(), path)
    reference: modeling.Sam = reference_sam(SMALL, seed=1)
    reference.load_state_dict(torch.load(path, weights_only=True), strict=True)
    assert torch.equal(reference.mask_decoder.iou_token.weight, reference_sam(SMALL).mask_decoder.iou_token.weight)


def rewrite(path: Path, changes: dict[str, Tensor | None]) -> None:
    """Set keys of a checkpoint; None takes one out."""
    weights = {**torch.load(path, weights_only=True), **changes}
    torch.save({key: value for key, value in weights.items() if value is not None}, path)


POSITIONS = "image_encoder.blocks.1.attn.rel_pos_h"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({POSITIONS: None}, rf"model type small: missing: {POSITIONS}$"),
        ({"head.weight": torch.ones(2)}, r"model type small: unexpected: head\.weight$"),
        ({POSITIONS: torch.ones(127, 16)}, rf"misshapen: {POSITIONS} is \(127, 16\), expected \(15, 16\)$"),
        ({POSITIONS: torch.full((15, 16), torch.nan)}, rf"not finite: {POSITIONS}$"),
        ({POSITIONS: None, "more": torch.ones(1)}, rf"missing: {POSITIONS}; unexpected: more$"),
    ],
    ids=["missing", "extra", "misshapen", "not finite", "two"],
)
def test_keys_that_do_not_fit_are_named(checkpoint: Path, changes: dict[str, Tensor | None], message: str) -> None:
    rewrite(checkpoint, changes)
    with pytest.raises(WeightsError, match=message):
        load(checkpoint)


def test_weights_of_other_dimensions_are_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"model type vit_b: missing: .* and \d+ more; misshapen: .* and \d+ more$"):
        load_sam(VARIANTS["vit_b"], load_state_dict(checkpoint))
