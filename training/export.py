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

from sam_server.network.sam import build_sam, load_weights
from sam_server.network.variants import SamVariant
from training.config import TrainConfig
from training.trainer import read_checkpoint

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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/train/last.ckpt"))
    parser.add_argument("--out", type=Path, default=Path("model/tiny"))
    parser.add_argument("--last", action="store_true", help="the weights themselves instead of their average")
    arguments = parser.parse_args()
    state = read_checkpoint(arguments.checkpoint)
    config = TrainConfig.from_json(state["config"])
    digest = export(state["weights" if arguments.last else "average"], config.variant, arguments.out)
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} minutes: {arguments.out / WEIGHTS} sha256 {digest}")


if __name__ == "__main__":
    main()
