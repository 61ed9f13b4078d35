"""Weights to measure with: official ones where they are there, else made on the spot and kept.

`python -m benchmarks.weights SETTINGS VARIANT` makes what is missing, in a process of its own.
"""

import os
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.pictures import draw_picture
from benchmarks.settings import BENCHMARK_VARIANTS, Settings
from benchmarks.widen import painted_sam
from sam_server import transforms
from sam_server.checkpoints.load import load_state_dict
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import Sam, build_sam, load_sam
from sam_server.network.variants import VARIANTS, SamVariant

# Added to fresh weights, whose positions and biases are zero, so that every term has a say in the result.
NOISE = 0.02
SEED = 0


def make_weights(settings: Settings, name: str) -> str:
    """Write the checkpoints of a variant, with its config.json beside them, unless they are there.

    Returns:
        What they are, for the report.
    """
    variant = BENCHMARK_VARIANTS[name]
    real = _real_checkpoint(settings, name)
    tiny = tiny_checkpoint(settings)
    for painted in (False, True):
        path = settings.weights(name, painted)
        made_from = path.with_suffix(".txt")
        origin = _origin(variant, real, tiny if painted else None)
        if path.is_file() and made_from.is_file() and made_from.read_text() == origin:
            continue
        shutil.rmtree(path.parent, ignore_errors=True)  # with the ONNX files of earlier weights
        path.parent.mkdir(parents=True)
        if real is not None:
            _write(load_sam(_variant_of(real, variant), load_state_dict(real)), path)
        elif painted and variant.encoder == "vit":
            _write(painted_sam(variant, _tiny(tiny), _tiny_picture(settings)), path)
        else:
            _write(_random_sam(variant), path)
        made_from.write_text(origin)
    if real is not None:
        return f"{real.name}"
    source = "model/tiny" if tiny is not None else "a random tiny model"
    return f"random for encode and batches; for the parts with masks {source}, widened (benchmarks/widen.py)"


def main() -> None:
    """Settings as JSON and the variant's name from the command line."""
    print(make_weights(Settings.from_json(sys.argv[1]), sys.argv[2]))


def tiny_checkpoint(settings: Settings) -> Path | None:
    """The model that ships, if it is there."""
    path = settings.model_dir / "tiny" / "sam_tiny.safetensors"
    return path if path.is_file() else None


def _origin(variant: SamVariant, *files: Path | None) -> str:
    """What a checkpoint is made from; another text means that it must be made again."""
    stamps = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file is not None]
    return "\n".join([variant.to_json(), *stamps])


def _real_checkpoint(settings: Settings, name: str) -> Path | None:
    if name == "tiny":
        return tiny_checkpoint(settings)
    file = CHECKPOINTS.get(name)
    path = None if file is None else settings.model_dir / file.name
    return path if path is not None and path.is_file() else None


def _variant_of(checkpoint: Path, default: SamVariant) -> SamVariant:
    config = checkpoint.parent / "config.json"
    return SamVariant.from_json(config.read_text()) if config.is_file() else default


def _random_sam(variant: SamVariant) -> Sam:
    torch.manual_seed(SEED)
    sam = build_sam(variant)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
    return sam


def _tiny(checkpoint: Path | None) -> Sam:
    if checkpoint is None:
        return _random_sam(VARIANTS["tiny"]).eval()
    return load_sam(_variant_of(checkpoint, VARIANTS["tiny"]), load_state_dict(checkpoint))


def _tiny_picture(settings: Settings) -> torch.Tensor:
    spec = VARIANTS["tiny"].spec
    prepared = transforms.prepare(draw_picture(*settings.picture_size), spec.image_size)
    return torch.from_numpy(transforms.normalise_and_pad(prepared, spec))[None]


def _write(sam: Sam, path: Path) -> None:
    (path.parent / "config.json").write_text(sam.variant.to_json())
    part = path.with_suffix(".part")
    torch.save({key: value.float() for key, value in sam.state_dict().items()}, part)
    os.replace(part, path)


if __name__ == "__main__":
    main()
