"""Do two backends agree? Real pictures and prompts of every kind through one backend, and two such runs compared."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage import data

from sam_server.arrays import BoolArray, ByteArray, FloatArray
from sam_server.backend import SamBackend
from sam_server.predictor import Predictor
from sam_server.prompts import Prompt, make_prompt

# Pictures that come with scikit-image; two, for a ViT-H takes a minute for each on a CPU.
PICTURES: dict[str, Callable[[], ByteArray]] = {
    "coffee": data.coffee,
    "coins": lambda: np.stack([data.coins()] * 3, axis=-1),  # type: ignore[no-untyped-call]
}
PROMPTS_PER_KIND = 4
TIMED_CLICKS = 5
SEED = 20230405  # of the drawn prompts


@dataclass(frozen=True)
class Run:
    """What one backend gave.

    Attributes:
        embeddings: (C, E, E) float32 by picture.
        masks: (N, H, W) bool by picture, every mask of every prompt.
        encode_seconds, click_seconds: median of a picture, of a single click on an encoded one.
        peak_bytes: most memory that the process had.
        engine: what computed, with version and precision.
    """

    embeddings: dict[str, FloatArray]
    masks: dict[str, BoolArray]
    encode_seconds: float
    click_seconds: float
    peak_bytes: int
    engine: str


@dataclass(frozen=True)
class Limits:
    """What counts as agreement.

    Attributes:
        embedding_error: most relative error of an embedding, or None where only the masks count.
        mean_iou, worst_iou: least IoU between the masks of both backends, on average and of any one; see `Agreement`.
    """

    embedding_error: float | None
    mean_iou: float
    worst_iou: float


# fp32 differs by rounding alone; the other precisions by what they are.
LIMITS = {
    "fp32": Limits(embedding_error=1e-4, mean_iou=0.999, worst_iou=0.99),
    "fp16": Limits(embedding_error=None, mean_iou=0.97, worst_iou=0.0),
    "int8": Limits(embedding_error=None, mean_iou=0.97, worst_iou=0.0),
}


@dataclass(frozen=True)
class Agreement:
    """How near two runs are.

    Attributes:
        embedding_error: largest relative error of an embedding, in the Euclidean norm.
        mean_iou: between the masks of both.
        worst_iou: of any mask; of one that differs in a single pixel, 1.
        masks: how many were compared.
    """

    embedding_error: float
    mean_iou: float
    worst_iou: float
    masks: int

    def failures(self, limits: Limits) -> list[str]:
        """What is beyond the limits, a sentence each; a value that is not a number is."""
        found = []
        if limits.embedding_error is not None and not self.embedding_error <= limits.embedding_error:
            found.append(f"embedding error {self.embedding_error:.1e} is above {limits.embedding_error:.0e}")
        if not self.mean_iou >= limits.mean_iou:
            found.append(f"mean IoU of the masks {self.mean_iou:.4f} is below {limits.mean_iou}")
        if not self.worst_iou >= limits.worst_iou:
            found.append(f"worst IoU of the masks {self.worst_iou:.4f} is below {limits.worst_iou}")
        return found


def run(backend: SamBackend) -> Run:
    """Encode every picture and decode prompts of every kind on it."""
    predictor = Predictor(backend)
    embeddings, masks, encoding, clicking = {}, {}, [], []
    for name, load in PICTURES.items():
        pixels = load()
        start = time.perf_counter()
        embedding = predictor.encode(pixels)
        encoding.append(time.perf_counter() - start)
        embeddings[name] = backend.embedding_array(embedding)
        prompts = every_kind_of_prompt(pixels.shape[0], pixels.shape[1], backend.spec.low_res_size)
        predictions = predictor.predict(embedding, prompts)
        masks[name] = np.concatenate([prediction.masks for prediction in predictions])
        for prompt in prompts[:TIMED_CLICKS]:
            start = time.perf_counter()
            predictor.predict(embedding, [prompt])
            clicking.append(time.perf_counter() - start)
    info = backend.info
    engine = f"{info.engine}, {info.precision}"
    return Run(embeddings, masks, float(np.median(encoding)), float(np.median(clicking)), peak_bytes(), engine)


def every_kind_of_prompt(height: int, width: int, low_res_size: int) -> list[Prompt]:
    """Points, several points, boxes, both, and each with a mask, drawn on a picture; the same ones each time."""
    rng = np.random.default_rng(SEED)
    size = np.array([width, height])

    def points(count: int) -> FloatArray:
        drawn: FloatArray = rng.uniform(0.1, 0.9, (count, 2)) * size
        return drawn

    def box() -> FloatArray:
        centre, half = rng.uniform(0.3, 0.7, 2), rng.uniform(0.05, 0.25, 2)
        return np.concatenate([(centre - half) * size, (centre + half) * size])

    def mask() -> FloatArray:
        """Logits of a disc, as an earlier answer would give them."""
        rows, columns = np.mgrid[:low_res_size, :low_res_size] / low_res_size
        row, column, radius = *rng.uniform(0.2, 0.6, 2), rng.uniform(0.05, 0.2)
        logits: FloatArray = 40 * (radius - np.hypot(rows - row, columns - column))
        return logits.clip(-10, 10).astype(np.float32)

    prompts = []
    for _ in range(PROMPTS_PER_KIND):
        for given in (None, mask()):
            prompts += [
                make_prompt(points(1), mask_input=given),
                make_prompt(points(3), [1, 0, 1], mask_input=given),
                make_prompt(box=box(), mask_input=given),
                make_prompt(points(2), [1, 0], box(), given),
            ]
            prompts += [make_prompt(mask_input=given)] if given is not None else []
    # Single clicks first, for they are timed.
    return sorted(
        prompts, key=lambda prompt: (prompt.mask_input is not None, prompt.box is not None, len(prompt.points))
    )


def compare(found: Run, expected: Run) -> Agreement:
    """Compare two runs of the same weights."""
    errors = [
        float(np.linalg.norm(found.embeddings[name] - embedding) / np.linalg.norm(embedding))
        for name, embedding in expected.embeddings.items()
    ]
    pairs = [(found.masks[name], masks) for name, masks in expected.masks.items()]
    ious = np.concatenate([mask_iou(*pair) for pair in pairs])
    worst = min(worst_iou(*pair) for pair in pairs)
    return Agreement(max(errors), float(ious.mean()), worst, len(ious))


def mask_iou(found: BoolArray, expected: BoolArray) -> FloatArray:
    """(N,) IoU of masks (N, H, W) one by one; 1 where both are empty."""
    union = (found | expected).sum(axis=(1, 2))
    inter = (found & expected).sum(axis=(1, 2))
    iou: FloatArray = np.where(union == 0, 1.0, inter / np.maximum(union, 1)).astype(np.float32)
    return iou


def worst_iou(found: BoolArray, expected: BoolArray) -> float:
    """Least IoU of masks (N, H, W) one by one; a mask that differs in a single pixel counts as equal.

    Rounding alone puts a logit that is all but zero on either side, and one pixel is more than 1 % of a mask of ten by
    ten, which a small model finds.
    """
    differing = (found != expected).sum(axis=(1, 2))
    return float(np.where(differing <= 1, 1.0, mask_iou(found, expected)).min())


def peak_bytes() -> int:
    """Most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent had before it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
