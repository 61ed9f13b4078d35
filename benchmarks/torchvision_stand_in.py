"""The four functions of torchvision that segment-anything 1.0 imports.

torchvision has no build for every torch, and its wheels would bring a second image stack. Where it is not installed,
`install` puts these functions in its place, with the numbers of torchvision's CPU kernels.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def install() -> None:
    """Let `import segment_anything` work; does nothing where the real torchvision is installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    functions = {
        "torchvision": (),
        "torchvision.ops": (),
        "torchvision.ops.boxes": (batched_nms, box_area),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": (resize, to_pil_image),
    }
    for name, members in functions.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)  # or a later find_spec would fail
        for member in members:
            setattr(module, member.__name__, member)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def to_pil_image(pixels: np.ndarray) -> Image.Image:
    """A PIL picture of (H, W, 3) uint8 RGB."""
    return Image.fromarray(pixels)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a PIL picture to (h, w) by PIL's antialiased bilinear filter, torchvision's default."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def box_area(boxes: Tensor) -> Tensor:
    """Areas (N,) of boxes (N, 4) x1, y1, x2, y2."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each category.

    Args:
        boxes: (N, 4) float32 x1, y1, x2, y2.
        scores: (N,) float32.
        idxs: (N,) category of each box.
        iou_threshold: a box goes if its IoU with a better one of its category is above this.

    Returns:
        Indices of the kept boxes, best first.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Categories are moved apart, so that boxes of different ones never overlap.
    offsets = idxs.to(boxes) * (boxes.max() + 1)
    return _nms(boxes + offsets[:, None], scores, iou_threshold)


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression in the order of torchvision/csrc/ops/cpu/nms_kernel.cpp, a row at a time."""
    order = scores.sort(stable=True, descending=True).indices
    corners = boxes[order].detach().cpu().numpy()
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    alive = np.ones(len(corners), bool)
    for row in range(len(corners)):
        if not alive[row]:
            continue
        rest = np.flatnonzero(alive[row + 1 :]) + row + 1
        low = np.maximum(corners[row, :2], corners[rest, :2])
        high = np.minimum(corners[row, 2:], corners[rest, 2:])
        sides = np.maximum(high - low, np.float32(0))
        overlap = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # two empty boxes: 0 / 0, which is not above any threshold
            iou = overlap / (areas[row] + areas[rest] - overlap)
        alive[rest[iou > iou_threshold]] = False
    return order[torch.from_numpy(np.flatnonzero(alive)).to(order.device)]
