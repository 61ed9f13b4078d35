"""The coins test: the 24 coins of `skimage.data.coins`, outlined by classical means."""

import numpy as np
from scipy import ndimage
from skimage import data, filters, measure, morphology, segmentation

from sam_server.arrays import BoolArray, ByteArray

COINS = 24
# Smallest coin, in pixels; what is smaller is dirt.
MIN_COIN_AREA = 800


def coins_image() -> ByteArray:
    """(303, 384, 3) uint8: Greek coins from Pompeii, grey."""
    return np.repeat(np.asarray(data.coins())[..., None], 3, axis=2)


def coin_masks() -> list[BoolArray]:
    """One (303, 384) mask a coin, by edges, watershed and hole filling, as in scikit-image's own tutorial."""
    grey = np.asarray(data.coins())
    markers = np.zeros(grey.shape, np.int32)
    markers[grey < 30] = 1
    markers[grey > 150] = 2
    flooded = segmentation.watershed(filters.sobel(grey), markers)
    solid = morphology.opening(ndimage.binary_fill_holes(flooded == 2), morphology.disk(3))
    regions = measure.regionprops(measure.label(solid))
    large = sorted((region for region in regions if region.area >= MIN_COIN_AREA), key=lambda region: region.label)
    masks = []
    for region in large:
        mask = np.zeros(grey.shape, bool)
        rows, columns = region.slice
        mask[rows, columns] = region.image_filled
        masks.append(mask)
    return masks
