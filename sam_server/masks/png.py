"""A mask as a PNG of one bit a pixel."""

import cv2
import numpy as np

from sam_server.arrays import BoolArray

# Masks are long runs: zlib's fastest level already packs them well, and the level costs time, not size.
_COMPRESSION = 1


def encode(mask: BoolArray) -> bytes:
    """Write a mask as a PNG, 1 bit a pixel, white on the mask.

    Args:
        mask: (H, W) bool.
    """
    options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION]
    ok, data = cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255), options)
    if not ok:
        raise ValueError(f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels cannot be written as PNG")
    return data.tobytes()
