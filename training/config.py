"""The recipe of a training run as one JSON file."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sam_server.network.variants import VARIANTS, SamVariant


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one resolution.

    Attributes:
        size: side of the pictures, in pixels; a multiple of 128 for model/tiny.
        share: of the run's steps (or minutes).
        batch: pictures a step, over all processes.
        masks: masks a picture.
        rounds: prompts a mask: the first and the corrections.
        framed: share of pictures that are windows of a picture of `frame` pixels, whose objects are as large as
            there; the others show as much of a scene as a whole picture does, smaller.
        frame: side of the pictures that windows are cut from; `size` if 0.
        plain: share of pictures that are whole scenes as they were drawn, not turned, zoomed or recoloured: such as a
            server is sent, whose pixels no interpolation has smoothed.
        empty: share of pictures of droplets, cells and the like in which one of the masks is none: its click goes to
            the bare ground, and the lesson is a predicted IoU of 0. A search of a whole picture clicks there most.
        deep: share of pictures that a 16-bit camera took, with few photons, and the server scaled to 8 bits.
        close: share of pictures that show small objects from near, some out of focus (see `close_up`).
    """

    size: int
    share: float
    batch: int
    masks: int
    rounds: int
    framed: float = 0.0
    frame: int = 0
    plain: float = 0.0
    empty: float = 0.0
    deep: float = 0.0
    close: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights that come out.

    Attributes:
        variant: a row of VARIANTS by name, or a whole row.
        stages: in order; shares are scaled to sum to one.
        steps: optimiser steps; with a limit of minutes, only the most.
        seed: of weights, samples and prompts.
        scenes: how many stored scenes are used, the first of the store.
        optimizer: "adamw", or "muon" (see `optimizers`).
        learning_rate: after warm-up; falls by a cosine to `final_rate` of it.
        warmup: share of the run.
        weight_decay: of matrices and kernels; biases, norms and embeddings have none.
        gradient_clip: largest norm of the gradient.
        ema: decay of the average of weights a step.
        balanced: weight of the balanced cross-entropy at the start.
        balanced_until: share of the run over which the balanced cross-entropy fades out.
        dense: weight of the loss over all objects of a picture (see `dense`); 0 leaves it out.
        part: how the names of the weights begin that are trained, such as "mask_decoder.iou_prediction_head"; the
            others stay as they are. All if empty.
    """

    variant: SamVariant
    stages: tuple[Stage, ...]
    steps: int
    seed: int = 0
    scenes: int = 1000
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    final_rate: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    ema: float = 0.999
    balanced: float = 5.0
    balanced_until: float = 0.6
    dense: float = 0.0
    part: str = ""

    def __post_init__(self) -> None:
        if not self.stages or self.steps < 1:
            raise ValueError("a training run needs stages and steps")

    def stage_at(self, progress: float) -> Stage:
        """The stage in which a share `progress` in [0, 1] of the run lies."""
        total = sum(stage.share for stage in self.stages)
        end = 0.0
        for stage in self.stages:
            end += stage.share / total
            if progress < end:
                return stage
        return self.stages[-1]

    def to_json(self) -> str:
        """The recipe as JSON."""
        values = asdict(self)
        if VARIANTS.get(self.variant.name) == self.variant:
            values["variant"] = self.variant.name
        return json.dumps(values, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Read what `to_json` wrote, or a person.

        Raises:
            ValueError: not JSON, an unknown field or variant.
        """
        values = json.loads(text)
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"training config has unknown fields: {', '.join(sorted(unknown))}")
        variant = values["variant"]
        if isinstance(variant, str):
            if variant not in VARIANTS:
                raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
            values["variant"] = VARIANTS[variant]
        else:
            values["variant"] = SamVariant.from_json(json.dumps(variant))
        values["stages"] = tuple(Stage(**stage) for stage in values["stages"])
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """Read a file."""
        return cls.from_json(path.read_text())
