"""Write the averaged weights of a run as a checkpoint that the server loads: `python -m training.export`.

Can be run at any time, also while the run goes on: it reads the run's last checkpoint.
"""

import argparse
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pytorch_sam_wrapper import PyTorchSam, find_variant
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import build_sam, load_sam, load_weights
from sam_server.network.variants import SamVariant
from sam_server.predictor import Predictor
from training.config import TrainConfig
from training.logit_scale import calibration_pictures, fit_scale, good_logits, scale_logits
from training.trainer import read_checkpoint

CHECKPOINT_SUFFIX = ".ckpt"
WEIGHTS = "sam_tiny.safetensors"
HASHES = "SHA256SUMS"


def export(weights: Mapping[str, Tensor], variant: SamVariant, folder: Path, name: str = WEIGHTS) -> str:
    """Write weights in float16 with config.json and SHA256SUMS beside them.

    Args:
        weights: by SAM's key names; checked strictly against the variant.
        variant: written as config.json, which the server reads beside the file.
        folder: made if need be.
        name: of the file.

    Returns:
        sha256 of the weights file.

    Raises:
        WeightsError: the weights do not fit the variant.
    """
    load_weights(build_sam(variant), weights)
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: value.detach().to(torch.float16).contiguous() for key, value in weights.items()}
    part = folder / f"{name}.part"
    save_file(half, part, metadata={"format": "pt", "model_type": variant.name})
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    part.chmod(0o644)
    os.replace(part, folder / name)
    (folder / "config.json").write_text(variant.to_json() + "\n")
    (folder / HASHES).write_text(f"{digest}  {name}\n")
    return digest


def read_weights(checkpoint: Path, last: bool = False) -> tuple[dict[str, Tensor], SamVariant]:
    """Weights and dimensions of a run's checkpoint, or of a file that the server loads.

    Args:
        checkpoint: NAME.ckpt of a run, or any other file with config.json beside it.
        last: of a run, the weights themselves instead of their average.
    """
    if checkpoint.suffix != CHECKPOINT_SUFFIX:
        return dict(load_state_dict(checkpoint)), find_variant(checkpoint, None)
    state = read_checkpoint(checkpoint)
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} minutes")
    return state["weights" if last else "average"], TrainConfig.from_json(state["config"]).variant


def fit_and_scale(weights: Mapping[str, Tensor], variant: SamVariant) -> tuple[dict[str, Tensor], float]:
    """Weights with logits of the scale that stability scores count on (see `logit_scale`), and that scale."""
    predictor = Predictor(PyTorchSam(load_sam(variant, weights), torch.device("cpu"), "fp32"))
    scale = fit_scale(good_logits(predictor, calibration_pictures()))
    return scale_logits(weights, scale), scale


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/train/last.ckpt"))
    parser.add_argument("--out", type=Path, default=Path("model/tiny"))
    parser.add_argument("--last", action="store_true", help="the weights themselves instead of their average")
    parser.add_argument("--logit-scale", type=float, help="multiply logits by this; fitted on drawn scenes if left out")
    arguments = parser.parse_args()
    weights, variant = read_weights(arguments.checkpoint, arguments.last)
    if arguments.logit_scale:
        weights, scale = scale_logits(weights, arguments.logit_scale), arguments.logit_scale
    else:
        weights, scale = fit_and_scale(weights, variant)
    digest = export(weights, variant, arguments.out)
    print(f"logits times {scale:g}: {arguments.out / WEIGHTS} sha256 {digest}")


if __name__ == "__main__":
    main()
