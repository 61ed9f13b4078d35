"""Give a trained model more transformer blocks, which at first do nothing: `python -m training.grow`.

A run that starts from the result goes on where the smaller model was, and need not begin with random weights.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sam_server.network.sam import build_sam
from sam_server.network.variants import VARIANTS, SamVariant
from training.export import WEIGHTS, export, read_weights

# What each residual branch of a block ends with (see `ConvVitBlock`).
BRANCH_ENDS = ("local", "proj", "mlp.lin2")


def grow(weights: Mapping[str, Tensor], variant: SamVariant, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a deeper image encoder that gives what the shallower one gives.

    Args:
        weights: of a "conv_vit" with fewer blocks and otherwise the variant's dimensions.
        variant: the deeper one; its first blocks are those of `weights`.
        seed: of the random weights within the new blocks, whose branches end with zeros.

    Returns:
        All weights of the variant, float32.
    """
    torch.manual_seed(seed)
    grown = {key: value.clone() for key, value in build_sam(variant).state_dict().items()}
    for key in grown:
        if key in weights:
            grown[key] = weights[key].float()
        elif key.rpartition(".")[0].endswith(BRANCH_ENDS):
            grown[key] = torch.zeros_like(grown[key])
    return grown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="with config.json beside it")
    parser.add_argument("--out", type=Path, default=Path("build/grown"))
    arguments = parser.parse_args()
    weights, before = read_weights(arguments.checkpoint)
    variant = VARIANTS["tiny"]
    kept = tuple(block for block in variant.global_blocks if block < before.depth)
    if before.depth >= variant.depth or before != replace(variant, depth=before.depth, global_blocks=kept):
        parser.error(f"{arguments.checkpoint} is not tiny without some of its last blocks")
    export(grow(weights, variant), variant, arguments.out)
    print(f"{before.depth} blocks, now {variant.depth}: {arguments.out / WEIGHTS}")


if __name__ == "__main__":
    main()
