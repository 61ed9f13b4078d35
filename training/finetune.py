"""Tune a model on your own pictures: `python -m training.finetune --pictures FOLDER --out model/mine`.

Starts from model/tiny or from any checkpoint that the server loads, and writes one that it loads by path.
See docs/training.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import trange

from pytorch_sam_wrapper import PyTorchSam, find_variant
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import Sam, load_sam
from sam_server.network.variants import SamVariant
from sam_server.predictor import Predictor
from training.config import Stage, TrainConfig
from training.export import export
from training.labelled_folder import read_folder
from training.logit_scale import SHIPPED_SCALES, scale_logits
from training.protocol import Measured, measure, to_picture
from training.scene_canvas import Scene
from training.trainer import Rank, Trainer, make_batch

NAME = "sam_finetuned.safetensors"
PARTS = ("decoder", "all")


def make_config(variant: SamVariant, steps: int, batch: int, rate: float, seed: int) -> TrainConfig:
    """The recipe of a fine-tuning: one stage at the variant's own size, no balanced cross-entropy."""
    return TrainConfig(
        variant=variant,
        stages=(Stage(variant.image_size, 1.0, batch, masks=6, rounds=3),),
        steps=steps,
        seed=seed,
        learning_rate=rate,
        warmup=0.1,
        ema=0.98,
        balanced=0.0,
    )


def finetune(trainer: Trainer, scenes: Sequence[Scene], part: str, quiet: bool = False) -> Sam:
    """Tune a trainer's model.

    Args:
        trainer: with the weights to start from.
        scenes: labelled pictures.
        part: "decoder" (prompt encoder and mask decoder; quick, safe with few pictures) or "all".
        quiet: no progress bar.

    Returns:
        The model with the averaged weights.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; options are {', '.join(PARTS)}")
    trainer.sam.image_encoder.requires_grad_(part == "all")
    config = trainer.config
    for step in trange(config.steps, disable=quiet, desc="fine-tuning", unit="step"):
        progress = step / config.steps
        trainer.train_step(make_batch(scenes, config.stage_at(progress), config.seed, step, Rank()), progress)
    scale = SHIPPED_SCALES.get(config.variant.name, 1.0)
    return load_sam(config.variant, scale_logits(trainer.average, scale))


def start_from(checkpoint: Path, config: TrainConfig, device: str = "cpu") -> Trainer:
    """A trainer whose weights are those of a checkpoint, with the logits that came out of its training."""
    trainer = Trainer(config, device=device)
    scale = SHIPPED_SCALES.get(config.variant.name, 1.0)
    trainer.start_from(scale_logits(load_state_dict(checkpoint), 1 / scale))
    return trainer


def measure_all(sam: Sam, scenes: Sequence[Scene]) -> list[Measured]:
    """Measure a model on labelled pictures by the protocol of `training.evaluate`."""
    predictor = Predictor(PyTorchSam(sam, torch.device("cpu"), "fp32"))
    pictures = [to_picture(scene) for scene in scenes]
    return [item for picture in pictures if picture.masks for item in measure(predictor, picture)]


def _print(name: str, measured: Sequence[Measured]) -> None:
    click, box = np.mean([item.click for item in measured]), np.mean([item.box for item in measured])
    print(f"{name}: 1 click {click:.3f}, box {box:.3f} (mean IoU of {len(measured)} objects kept aside)")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures and label maps")
    parser.add_argument("--coco", type=Path, help="COCO JSON with the masks, in place of label maps")
    parser.add_argument("--checkpoint", type=Path, default=Path("model/tiny/sam_tiny.safetensors"))
    parser.add_argument("--model-type", help="row of the variants, where no config.json lies beside the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new checkpoint")
    parser.add_argument("--part", choices=PARTS, default="decoder", help="what is tuned")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2, help="pictures a step")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aside", type=float, default=0.2, help="share of pictures kept aside for measuring")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    scenes = read_folder(arguments.pictures, arguments.coco)
    order = np.random.default_rng(arguments.seed).permutation(len(scenes))
    aside = round(len(scenes) * arguments.aside)
    kept, used = ([scenes[index] for index in part] for part in (order[:aside], order[aside:]))
    variant = find_variant(arguments.checkpoint, arguments.model_type)
    config = make_config(variant, arguments.steps, arguments.batch, arguments.rate, arguments.seed)
    trainer = start_from(arguments.checkpoint, config, arguments.device)
    if kept:
        _print("before", measure_all(load_sam(variant, trainer.average), kept))
    tuned = finetune(trainer, used, arguments.part)
    if kept:
        _print("after", measure_all(load_sam(variant, tuned.state_dict()), kept))
    export(tuned.state_dict(), variant, arguments.out, NAME)
    print(f"wrote {arguments.out / NAME}")


if __name__ == "__main__":
    main()
