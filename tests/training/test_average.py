import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pytorch_sam_wrapper import find_variant
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import build_sam
from training.average import IOU_HEAD, average, with_head
from training.export import WEIGHTS, export


@pytest.fixture(scope="module")
def models(small_variant):
    out = []
    for seed in range(2):
        torch.manual_seed(seed)
        out.append(build_sam(small_variant).state_dict())
    return out


def test_the_share_is_that_of_the_first(models):
    first, second = models
    mixed = average(first, second, 0.25)
    assert mixed.keys() == first.keys()
    for key, value in mixed.items():
        torch.testing.assert_close(value, 0.25 * first[key] + 0.75 * second[key])
    assert all(torch.equal(value, first[key]) for key, value in average(first, second, 1.0).items())


def test_what_cannot_be_averaged(models, small_variant):
    with pytest.raises(ValueError, match=r"share must be 0 to 1, not 1\.5"):
        average(*models, 1.5)
    deeper = build_sam(replace(small_variant, depth=3)).state_dict()
    for combine in (lambda: average(models[0], deeper, 0.5), lambda: with_head(models[0], deeper)):
        with pytest.raises(ValueError, match="models of one variant"):
            combine()


def test_command_line(models, small_variant, tmp_path):
    paths = []
    for name, weights in zip("ab", models, strict=True):
        export(weights, small_variant, tmp_path / name)
        paths.append(str(tmp_path / name / WEIGHTS))
    command = [sys.executable, "-m", "training.average", *paths, "--out", str(tmp_path / "mean")]
    done = subprocess.run([*command, "--share", "0.5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mean = load_state_dict(tmp_path / "mean" / WEIGHTS)
    key = "mask_decoder.iou_token.weight"
    torch.testing.assert_close(mean[key].float(), (models[0][key] + models[1][key]) / 2, atol=1e-3, rtol=1e-3)
    assert find_variant(tmp_path / "mean" / WEIGHTS, None) == small_variant
    subprocess.run([*command, "--share", "0.5", "--head", paths[0]], check=True, capture_output=True)
    headed = load_state_dict(tmp_path / "mean" / WEIGHTS)
    for key, value in headed.items():
        of = models[0] if key.startswith(IOU_HEAD) else mean
        torch.testing.assert_close(value.float(), of[key].float(), atol=1e-3, rtol=1e-3)
    assert any(key.startswith(IOU_HEAD) for key in headed)
    refused = subprocess.run([*command, "--share", "2"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "share must be 0 to 1" in refused.stderr
