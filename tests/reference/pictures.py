"""Photographs of several shapes, all from files that come with scikit-image, and prompts on them."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage import data

from sam_server.prompts import Prompt, make_prompt


def photographs() -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 RGB pictures by shape."""
    astronaut, chelsea, coffee, rocket = data.astronaut(), data.chelsea(), data.coffee(), data.rocket()
    return {
        "square": astronaut,
        "landscape": chelsea,  # 300 x 451
        "portrait": np.ascontiguousarray(np.rot90(coffee)),  # 600 x 400
        "tiny": coffee[120:160, 200:230],  # 40 x 30
        "odd": astronaut[3:336, :].repeat(2, axis=1)[:, 100:617],  # 333 x 517
        "strip": rocket[200:231],  # 31 x 640
        "grey": np.stack([data.coins()] * 3, axis=-1),  # 303 x 384
        "large": np.asarray(Image.fromarray(coffee[:, 27:573]).resize((1500, 1100))),
    }


@dataclass(frozen=True)
class Pointing:
    """What a person points at, in fractions of the picture.

    Attributes:
        points: (P, 2) x, y.
        labels: (P,) 1 foreground, 0 background.
        box: x1, y1, x2, y2.
        mask: continue from earlier logits.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: bool = False

    def on(self, shape: tuple[int, int], logits: np.ndarray | None) -> Prompt:
        """As a prompt in the pixels of a picture (H, W); `logits` (L, L) are those of an earlier mask."""
        height, width = shape
        return make_prompt(
            [(x * width, y * height) for x, y in self.points] or None,
            self.labels or None,
            np.array(self.box) * [width, height, width, height] if self.box else None,
            logits if self.mask else None,
        )


POINT = ((0.4, 0.55),)
POINTS = ((0.4, 0.55), (0.7, 0.3), (0.1, 0.9))
LABELS = (1, 0, 1)
BOX = (0.2, 0.25, 0.75, 0.8)

# Every kind of prompt.
POINTINGS = {
    "point": Pointing(POINT, (1,)),
    "background": Pointing(POINT, (0,)),
    "points": Pointing(POINTS, LABELS),
    "box": Pointing(box=BOX),
    "points_box": Pointing(POINTS, LABELS, BOX),
    "mask": Pointing(mask=True),
    "point_mask": Pointing(POINT, (1,), mask=True),
    "box_mask": Pointing(box=BOX, mask=True),
    "points_box_mask": Pointing(POINTS, LABELS, BOX, mask=True),
}
