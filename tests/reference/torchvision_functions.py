"""The four functions of torchvision that segment-anything 1.0 imports, after torchvision's documentation.

torchvision is no dependency of this project. Where it is installed, it is used.
"""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8 RGB as a PIL picture."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to `size` (h, w) bilinearly; PIL always antialiases, and so does torchvision on PIL pictures."""
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def box_area(boxes: Tensor) -> Tensor:
    """(N,) areas of boxes (N, 4) x1, y1, x2, y2."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,), the higher the better.
        iou_threshold: a box whose IoU with a better one is larger than this goes.

    Returns:
        (K,) int64 indices of the boxes that stay, best first.
    """
    areas = box_area(boxes)
    left = torch.sort(scores, descending=True, stable=True).indices
    keep = []
    while len(left):
        best, left = left[0], left[1:]
        keep.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        sides = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0)
        shared = sides.prod(dim=1)
        left = left[~(shared / (areas[best] + areas[left] - shared) > iou_threshold)]  # 0 / 0 stays, as in torchvision
    return torch.stack(keep) if keep else torch.zeros(0, dtype=torch.int64)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each category of `idxs` (N,): boxes of different categories leave each other alone."""
    keep = [rows[nms(boxes[rows], scores[rows], iou_threshold)] for rows in _rows_of_each(idxs)]
    kept = torch.cat(keep) if keep else torch.zeros(0, dtype=torch.int64)
    return kept[torch.sort(scores[kept], descending=True, stable=True).indices]


def _rows_of_each(idxs: Tensor) -> list[Tensor]:
    return [(idxs == category).nonzero()[:, 0] for category in idxs.unique()]


def supply() -> None:
    """Let `import torchvision` find these functions where torchvision is not installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    functional = _module("torchvision.transforms.functional", resize=resize, to_pil_image=to_pil_image)
    boxes = _module("torchvision.ops.boxes", batched_nms=batched_nms, box_area=box_area)
    transforms = _module("torchvision.transforms", functional=functional)
    ops = _module("torchvision.ops", boxes=boxes)
    _module("torchvision", transforms=transforms, ops=ops)


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module
