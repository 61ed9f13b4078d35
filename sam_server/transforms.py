"""Between the picture's own pixels and the model's square input: resize, normalise, pad, and back.

Source: segment_anything/utils/transforms.py and segment_anything/modeling/sam.py, whose numbers these equal.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sam_server.arrays import BoolArray, ByteArray, CoordArray, FloatArray
from sam_server.backend import ModelSpec, PreparedImage
from sam_server.prompts import LABEL_BOX_FIRST, LABEL_BOX_SECOND, LABEL_PADDING, Prompt, PromptBatch
from sam_server.upscale import above, upscale


def input_size(original_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """(h, w) of a picture (H, W) whose longest side is resized to `image_size`, both at least 1."""
    height, width = original_size
    scale = image_size / max(height, width)
    return (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))


def prepare(pixels: ByteArray, image_size: int) -> PreparedImage:
    """Resize a picture for the model.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        image_size: side of the model input, `ModelSpec.image_size`.

    Returns:
        The picture with its longest side at `image_size`, by PIL's antialiased bilinear filter.
    """
    height, width = pixels.shape[:2]
    new_height, new_width = input_size((height, width), image_size)
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    return PreparedImage(np.asarray(resized), (height, width))


def normalise_and_pad(image: PreparedImage, spec: ModelSpec) -> FloatArray:
    """(3, S, S) float32: the prepared picture less mean over std, then zeros to the right and below."""
    height, width = image.input_size
    padded = np.zeros((3, spec.image_size, spec.image_size), np.float32)
    # A channel at a time where it shall stand: the whole picture as floats, turned afterwards, takes ten times as long.
    for channel, (mean, std) in enumerate(zip(spec.pixel_mean, spec.pixel_std, strict=True)):
        plane = padded[channel, :height, :width]
        np.subtract(image.pixels[:, :, channel], np.float32(mean), out=plane)
        plane /= np.float32(std)
    return padded


def to_input_coords(
    coords: CoordArray, original_size: tuple[int, int], image_input_size: tuple[int, int]
) -> CoordArray:
    """Coordinates (..., 2) x, y from the picture's pixels to model input pixels."""
    (height, width), (new_height, new_width) = original_size, image_input_size
    scaled: CoordArray = coords * np.array([new_width / width, new_height / height])
    return scaled


def batch_prompts(
    prompts: Sequence[Prompt], original_size: tuple[int, int], image_input_size: tuple[int, int]
) -> PromptBatch:
    """Join prompts of one `Prompt.shape` for a backend.

    Args:
        prompts: one or more prompts of equal shape, in the picture's pixels.
        original_size: (H, W) of the picture.
        image_input_size: (h, w) that it fills of the model input.
    """
    coords, labels = zip(*(_as_points(prompt) for prompt in prompts), strict=True)
    masks = [prompt.mask_input[None] for prompt in prompts if prompt.mask_input is not None]
    return PromptBatch(
        to_input_coords(np.stack(coords), original_size, image_input_size).astype(np.float32),
        np.stack(labels).astype(np.int64),
        np.stack(masks).astype(np.float32) if masks else None,
    )


def _as_points(prompt: Prompt) -> tuple[CoordArray, list[int]]:
    """Points and the box as labelled points, closed by a padding point where points come without a box."""
    points = prompt.points
    labels = prompt.point_labels.tolist()
    if prompt.box is not None:
        corners = prompt.box.reshape(2, 2)
        return np.concatenate([points, corners]), [*labels, LABEL_BOX_FIRST, LABEL_BOX_SECOND]
    if len(points):
        return np.concatenate([points, np.zeros((1, 2))]), [*labels, LABEL_PADDING]
    return points, labels


def to_full_size(
    logits: FloatArray, image_size: int, image_input_size: tuple[int, int], original_size: tuple[int, int]
) -> FloatArray:
    """Upscale the logits of one mask to the picture's own pixels.

    Args:
        logits: (L, L) float32 low-res logits.
        image_size: side of the model input.
        image_input_size: (h, w) that the picture fills of it.
        original_size: (H, W) of the picture.

    Returns:
        (H, W) float32 logits: bilinear to the model input, without the padding, bilinear to the picture.
    """
    return upscale(logits, image_size, image_input_size, original_size)


def to_mask(
    logits: FloatArray,
    spec: ModelSpec,
    image_input_size: tuple[int, int],
    original_size: tuple[int, int],
    out: BoolArray | None = None,
) -> BoolArray:
    """(H, W) bool mask in the picture's own pixels, from (L, L) low-res logits; written into `out` if there is one."""
    mask = np.empty(original_size, np.bool_) if out is None else out
    above(logits, spec.mask_threshold, spec.image_size, image_input_size, mask)
    return mask
