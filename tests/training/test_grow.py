import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sam_server.network.sam import build_sam, load_weights
from sam_server.network.variants import VARIANTS
from training.export import export
from training.grow import grow


@pytest.fixture
def shallow(small_variant):
    torch.manual_seed(1)
    return build_sam(small_variant)


def test_a_grown_encoder_gives_what_it_gave(small_variant, shallow):
    deep = replace(small_variant, depth=4, global_blocks=(1, 3))
    grown = build_sam(deep)
    load_weights(grown, grow(shallow.state_dict(), deep))
    picture = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(grown.image_encoder(picture), shallow.image_encoder(picture))


def test_new_blocks_can_learn(small_variant, shallow):
    """Zeros all through would have gradients of zero, for ever."""
    grown = build_sam(replace(small_variant, depth=3))
    load_weights(grown, grow(shallow.state_dict(), grown.variant))
    block = grown.image_encoder.blocks[2]
    grown.image_encoder(torch.randn(1, 3, 128, 128)).square().sum().backward()
    for end in (block.local, block.proj, block.mlp.lin2):
        assert not end.weight.any()
        assert end.weight.grad.any()
    assert block.qkv.weight.any()
    assert block.mlp.lin1.weight.any()


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training.grow", *arguments], capture_output=True, text=True, check=False
    )


def test_command_line(tmp_path):
    tiny = VARIANTS["tiny"]
    before = replace(tiny, depth=tiny.depth - 2, global_blocks=tiny.global_blocks[:-1])
    export(build_sam(before).state_dict(), before, tmp_path / "before")
    done = command("--checkpoint", str(tmp_path / "before/sam_tiny.safetensors"), "--out", str(tmp_path / "after"))
    assert done.returncode == 0, done.stderr
    assert f"{before.depth} blocks, now {tiny.depth}" in done.stdout
    assert json.loads((tmp_path / "after/config.json").read_text())["depth"] == tiny.depth


def test_another_model_is_refused(tmp_path, small_variant, shallow):
    export(shallow.state_dict(), small_variant, tmp_path)
    done = command("--checkpoint", str(tmp_path / "sam_tiny.safetensors"), "--out", str(tmp_path / "after"))
    assert done.returncode == 2
    assert "is not tiny without some of its last blocks" in done.stderr
    assert not (tmp_path / "after").exists()


def test_blocks_are_never_taken_away(tmp_path):
    tiny = VARIANTS["tiny"]
    deeper = replace(tiny, depth=tiny.depth + 1)
    export(build_sam(deeper).state_dict(), deeper, tmp_path)
    done = command("--checkpoint", str(tmp_path / "sam_tiny.safetensors"), "--out", str(tmp_path / "after"))
    assert done.returncode == 2
    assert not (tmp_path / "after").exists()
