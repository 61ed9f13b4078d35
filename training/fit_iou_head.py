"""Fit the IoU head alone, on finished masks: `python -m training.fit_iou_head`.

While the masks still change, the head runs after them. Here the network stands still: its IoU tokens on training
scenes are collected once, and only the head's three layers are fitted to the real IoU. No mask changes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import Sam, load_sam
from sam_server.network.variants import SamVariant
from training.config import Stage
from training.export import WEIGHTS, export
from training.prompting import interactive_rounds
from training.scene_store import SceneStore
from training.trainer import Rank, Scenes, fit_targets, make_batch, to_tensors

# Masks asked for in each picture, and prompts a mask.
STAGE_MASKS, STAGE_ROUNDS = 8, 2
EPOCHS = 60
BATCH = 512
RATE = 1e-3
WEIGHT_DECAY = 0.05
# Share of pictures that only tell which epoch was best.
ASIDE = 0.15
# Weight of the first prompt's masks: that is where the head has to choose.
FIRST_PROMPT = 3.0


@dataclass(frozen=True)
class Tokens:
    """What the head sees, and what it should say.

    Attributes:
        inputs: (N, C) float32 IoU tokens after the transformer.
        iou: (N, 4) float32 real IoU of the single mask and the three.
        weight: (N,) float32.
        picture: (N,) int64, which picture they come from.
    """

    inputs: Tensor
    iou: Tensor
    weight: Tensor
    picture: Tensor


@torch.no_grad()
def collect(sam: Sam, scenes: Scenes, pictures: int, seed: int, quiet: bool = False) -> Tokens:
    """Run training prompts on `pictures` samples of scenes and keep the IoU tokens."""
    size = sam.variant.image_size
    stage = Stage(size, 1.0, 1, STAGE_MASKS, STAGE_ROUNDS)
    seen: list[Tensor] = []
    hook = sam.mask_decoder.iou_prediction_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].float()))
    iou, weight, numbers = [], [], []
    try:
        for number in trange(pictures, disable=quiet, desc="collecting", unit="picture"):
            images, targets = to_tensors(make_batch(scenes, stage, seed, number, Rank()), sam, torch.device("cpu"))
            with torch.autocast("cpu", torch.bfloat16):
                embedding = sam.image_encoder(images).to(torch.bfloat16)
                fitted = fit_targets(targets, 4 * embedding.shape[-1])
                rng = np.random.default_rng([seed, number])
                rounds = interactive_rounds(sam, embedding, fitted, size, STAGE_ROUNDS, 0.0, rng)
            for index, item in enumerate(rounds):
                iou.append(item.iou)
                weight.append(torch.full((len(item.iou),), FIRST_PROMPT if index == 0 else 1.0))
                numbers.append(torch.full((len(item.iou),), number))
    finally:
        hook.remove()
    return Tokens(torch.cat(seen), torch.cat(iou), torch.cat(weight), torch.cat(numbers))


def fit(head: nn.Module, tokens: Tokens, seed: int) -> tuple[float, float]:
    """Fit the head in place.

    Returns:
        Root mean square error on the pictures kept aside, before and after.
    """
    torch.manual_seed(seed)
    aside = tokens.picture < int(tokens.picture.max() * ASIDE) + 1
    train = [values[~aside] for values in (tokens.inputs, tokens.iou, tokens.weight)]
    check = [values[aside] for values in (tokens.inputs, tokens.iou, tokens.weight)]
    # The mean square error, of each prompt by its weight.

    def error(inputs: Tensor, iou: Tensor, weight: Tensor) -> Tensor:
        return ((head(inputs) - iou).square().mean(dim=1) * weight).sum() / weight.sum()

    with torch.no_grad():
        before = best = float(error(*check))
    weights = {key: value.clone() for key, value in head.state_dict().items()}
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train[0])).split(BATCH):
            optimizer.zero_grad()
            error(*(values[rows] for values in train)).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            now = float(error(*check))
        if now < best:
            best, weights = now, {key: value.clone() for key, value in head.state_dict().items()}
    head.load_state_dict(weights)
    return before**0.5, best**0.5


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("model/tiny"), help="folder that training.export wrote")
    parser.add_argument("--scenes", type=Path, default=Path("build/scenes"))
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    variant = SamVariant.from_json((arguments.model / "config.json").read_text())
    sam = load_sam(variant, load_state_dict(arguments.model / WEIGHTS))
    tokens = collect(sam, SceneStore(arguments.scenes), arguments.pictures, arguments.seed)
    before, after = fit(sam.mask_decoder.iou_prediction_head, tokens, arguments.seed)
    digest = export(sam.state_dict(), variant, arguments.model)
    print(f"error of predicted IoU on training scenes kept aside: {before:.3f} -> {after:.3f}; sha256 {digest}")


if __name__ == "__main__":
    main()
