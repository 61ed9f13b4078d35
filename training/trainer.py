"""The training loop: batches, optimiser, average of weights, checkpoints."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

# Its functions have the group of the moment of their import as a default. An optimiser imports them at its first step:
# they would keep the group past destroy_process_group(), and its threads, which take the interpreter's lock to let go
# of a tensor, would run into the interpreter's end and abort the process.
import torch.distributed.nn
from torch import Tensor, nn

from pytorch_sam_wrapper import cpu_has_bf16
from sam_server.arrays import BoolArray
from sam_server.network.sam import Sam, build_sam, load_weights
from training.close_up import close_up
from training.config import Stage, TrainConfig
from training.dense import DenseHead, dense_loss
from training.losses import RoundLoss
from training.optimizers import make_optimizers
from training.prompting import interactive_rounds
from training.samples import Sample, make_sample
from training.scene_canvas import Scene
from training.scene_degrade import deep_camera
from training.scenes import BARE_GROUND

# Tries to find a scene whose cut shows an object, before the run is stopped.
SAMPLE_TRIES = 50
# The average of weights starts short, so that early exports are not those of the first steps.
EMA_WARMUP = 10
# Cells of the image embedding, summed over prompts, that are decoded at once.
CPU_CHUNK_CELLS = 1 << 16
GPU_CHUNK_CELLS = 1 << 20


class Scenes(Protocol):
    """Where scenes come from: a SceneStore, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...


@dataclass(frozen=True)
class Rank:
    """This process among those that train together (torchrun); one alone is (0, 1)."""

    number: int = 0
    count: int = 1


@dataclass(frozen=True)
class StepReport:
    """What one step was like: means over prompts of this process; IoU over those of an object."""

    loss: float
    chosen_first: float
    best_first: float
    chosen_last: float
    single_last: float
    rate: float


def join_processes() -> Rank:
    """Join the processes that torchrun started; (0, 1) without torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return Rank()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Rank(dist.get_rank(), dist.get_world_size())


def make_batch(scenes: Scenes, stage: Stage, seed: int, step: int, rank: Rank) -> list[Sample]:
    """This process's samples of one step: a function of seed, step and rank alone, so that a resumed run repeats it."""
    rng = np.random.default_rng([seed, step, rank.number])
    samples: list[Sample] = []
    for _ in range(SAMPLE_TRIES * stage.batch):
        if len(samples) == max(1, stage.batch // rank.count):
            return samples
        scene = scenes[int(rng.integers(len(scenes)))]
        # Nothing is drawn for it where no stage asks for it: older configs keep their samples.
        plain = stage.plain > 0 and rng.random() < stage.plain
        frame = stage.frame if not plain and rng.random() < stage.framed else stage.size
        ground = stage.empty > 0 and scene.kind in BARE_GROUND and rng.random() < stage.empty
        if stage.deep > 0 and rng.random() < stage.deep:
            scene = replace(scene, image=deep_camera(scene.image, rng))
        if stage.close > 0 and rng.random() < stage.close:
            scene = close_up(scene, rng)
        sample = make_sample(scene, stage.size, stage.masks, rng, augment=not plain, frame=frame, ground=ground)
        if sample is not None:
            samples.append(sample)
    raise ValueError("scenes show no objects that could be trained on")


def to_tensors(samples: Sequence[Sample], sam: Sam, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised pictures (B, 3, S, S) and targets (B, P, S / 2, S / 2), both float32."""
    mean = torch.tensor(sam.variant.pixel_mean, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(sam.variant.pixel_std, device=device).reshape(1, 3, 1, 1)
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).to(device)
    targets = torch.from_numpy(np.stack([sample.targets for sample in samples])).to(device)
    return (images.permute(0, 3, 1, 2).float() - mean) / std, targets.float() / 255


def fit_targets(targets: Tensor, side: int) -> Tensor:
    """(B, P, L, L) coverage at the low-res masks' own side."""
    return targets if targets.shape[-1] == side else nn.functional.interpolate(targets, (side, side), mode="area")


def _report(done: Sequence[Sequence[RoundLoss]], rate: float) -> StepReport:
    first = [rounds[0] for rounds in done]
    last = [rounds[-1] for rounds in done]

    def mean(values: Sequence[Tensor]) -> float:
        return float(torch.cat(list(values)).mean())

    def shown(item: RoundLoss) -> Tensor:
        return item.iou[~item.empty]

    def chosen(item: RoundLoss) -> Tensor:
        return item.iou[:, 1:].gather(1, item.predicted[:, 1:].argmax(1, keepdim=True))[~item.empty]

    return StepReport(
        loss=mean([item.loss.detach()[None] for rounds in done for item in rounds]),
        chosen_first=mean([chosen(item) for item in first]),
        best_first=mean([shown(item)[:, 1:].max(1).values for item in first]),
        chosen_last=mean([chosen(item) for item in last]),
        single_last=mean([shown(item)[:, 0] for item in last]),
        rate=rate,
    )


class Trainer:
    """One run: weights, optimiser and average of weights after `step` steps."""

    def __init__(self, config: TrainConfig, rank: Rank | None = None, device: str = "cpu") -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.rank = rank or Rank()
        self.device = torch.device(device)
        # A processor without bf16 takes five times as long over it as over float32 (AMD Zen 3).
        self.dtype = torch.bfloat16 if self.device.type != "cpu" or cpu_has_bf16() else torch.float32
        self.chunk_cells = CPU_CHUNK_CELLS if self.device.type == "cpu" else GPU_CHUNK_CELLS
        self.sam = build_sam(config.variant).to(self.device)
        self.dense_head: DenseHead | None = None
        for name, parameter in self.sam.named_parameters():
            parameter.requires_grad_(name.startswith(config.part))
        if not self._parameters():
            raise ValueError(f"no weights of {config.variant.name} have names that begin with {config.part!r}")
        self.average = {key: value.clone() for key, value in self.sam.state_dict().items()}
        self.optimizers = make_optimizers(self.sam, config.optimizer, config.weight_decay)
        if config.dense:
            self.dense_head = DenseHead(config.variant.embedding_channels, config.variant.patch_size).to(self.device)
            self.optimizers.append(torch.optim.AdamW(self.dense_head.parameters(), lr=0.0, weight_decay=0.0))
        self.step = 0
        self.seconds = 0.0

    def rate(self, progress: float) -> float:
        """Learning rate at a share of the run: linear warm-up, then half a cosine."""
        config = self.config
        if progress < config.warmup:
            return config.learning_rate * max(progress / config.warmup, 1e-3)
        rest = (progress - config.warmup) / (1 - config.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
        return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)

    def train_step(self, samples: Sequence[Sample], progress: float) -> StepReport:
        """One step of the optimiser on this process's samples."""
        config, stage = self.config, self.config.stage_at(progress)
        rng = np.random.default_rng([config.seed, self.step, self.rank.number, 1])
        images, targets = to_tensors(samples, self.sam, self.device)
        balanced = config.balanced * max(0.0, 1 - progress / config.balanced_until)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(progress)
        self.sam.zero_grad(set_to_none=True)
        if self.dense_head:
            self.dense_head.zero_grad(set_to_none=True)
        with self._autocast():
            embeddings = self.sam.image_encoder(images).to(self.dtype)
        leaf = embeddings.detach().requires_grad_(embeddings.requires_grad)
        empty = np.stack([sample.empty for sample in samples])
        done = self._decode_and_backward(leaf, targets, empty, stage, balanced, rng)
        if self.dense_head:
            nodes = torch.from_numpy(np.stack([sample.nodes for sample in samples]).astype(np.int64)).to(self.device)
            with self._autocast():
                codes = self.dense_head(leaf)
            (config.dense * dense_loss(codes, nodes, rng)).backward()
        if embeddings.requires_grad:
            embeddings.backward(leaf.grad)
        self._share_gradients()
        nn.utils.clip_grad_norm_(self._parameters(), config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return _report(done, self.rate(progress))

    def _decode_and_backward(
        self,
        leaf: Tensor,
        targets: Tensor,
        empty: BoolArray,
        stage: Stage,
        balanced: float,
        rng: np.random.Generator,
    ) -> list[list[RoundLoss]]:
        """Losses of all rounds of all chunks of prompts; gradients are left in the parameters and the embeddings.

        Each chunk is decoded and goes backward before the next: what a few prompts need stays in the cache.
        """
        side = leaf.shape[-1]
        rows = max(1, self.chunk_cells // side**2)
        fitted = fit_targets(targets, 4 * side)
        done = []
        for picture in range(len(leaf)) if rows < stage.masks else range(1):
            pictures = slice(picture, picture + 1) if rows < stage.masks else slice(None)
            for first, part in enumerate(fitted[pictures].split(rows, dim=1)):
                bare = empty[pictures, first * rows : (first + 1) * rows]
                with self._autocast():
                    found = interactive_rounds(
                        self.sam, leaf[pictures], part, bare, stage.size, stage.rounds, balanced, rng
                    )
                    share = part.shape[0] * part.shape[1] / (fitted.shape[0] * fitted.shape[1])
                    loss = torch.stack([item.loss for item in found]).mean() * share
                loss.backward()
                done.append(found)
        return done

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _parameters(self) -> list[nn.Parameter]:
        """What is trained: of the model, and of the head that is thrown away."""
        own = [*self.sam.parameters(), *(self.dense_head.parameters() if self.dense_head else ())]
        return [parameter for parameter in own if parameter.requires_grad]

    def _share_gradients(self) -> None:
        if self.rank.count == 1:
            return
        parameters = self._parameters()
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        flat /= self.rank.count
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.reshape(parameter.shape)

    def _update_average(self) -> None:
        keep = min(self.config.ema, (self.step + 1) / (self.step + EMA_WARMUP))
        with torch.no_grad():
            for key, value in self.sam.state_dict().items():
                self.average[key].lerp_(value, 1 - keep)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights of a checkpoint, strictly, in place of random ones."""
        load_weights(self.sam, weights)
        self.average = {key: value.clone() for key, value in self.sam.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write a checkpoint from which the run goes on; it appears under its name when complete."""
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "config": self.config.to_json(),
                "step": self.step,
                "seconds": self.seconds,
                "weights": self.sam.state_dict(),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "dense_head": self.dense_head.state_dict() if self.dense_head else None,
                "torch_rng": torch.get_rng_state(),
            },
            part,
        )
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it was written by a run with another config.
        """
        state = read_checkpoint(path)
        if TrainConfig.from_json(state["config"]) != self.config:
            raise ValueError(f"{path} was written by a run with another config: start a new run in another folder")
        self.sam.load_state_dict(state["weights"])
        self.average = {key: value.to(self.device) for key, value in state["average"].items()}
        if self.dense_head:
            self.dense_head.load_state_dict(state["dense_head"])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        torch.set_rng_state(state["torch_rng"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
