"""A user's pictures with masks: COCO JSON, or a label map for each picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

from sam_server.arrays import BoolArray, ByteArray
from training.scene_canvas import MAX_NODES, Scene

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
# A label map of NAME.jpg is masks/NAME.png (or .tif, .npy), or NAME_mask.png beside it.
MASK_FOLDER, MASK_SUFFIX = "masks", "_mask"
MASK_FILES = (".png", ".tif", ".tiff", ".npy")
# Share of a mask that lies in a larger one from which on it is its part.
PART_SHARE = 0.9


class LabelsError(ValueError):
    """A folder that cannot be read; the message says what to change."""


def read_folder(folder: Path, coco: Path | None = None) -> list[Scene]:
    """Read pictures with their masks.

    Args:
        folder: of pictures.
        coco: COCO JSON whose `file_name`s lie in the folder; label maps are looked for if None.

    Raises:
        LabelsError: no picture has masks, or a label map's size is not its picture's.
    """
    if not folder.is_dir():
        raise LabelsError(f"{folder} is not a folder")
    scenes = _read_coco(folder, coco) if coco else _read_maps(folder)
    if not scenes:
        raise LabelsError(
            f"no picture of {folder} has masks: give a COCO file, or put label maps in "
            f"{folder / MASK_FOLDER}/NAME.png or beside the pictures as NAME{MASK_SUFFIX}.png"
        )
    return scenes


def make_scene(image: ByteArray, masks: Sequence[BoolArray], kind: str) -> Scene:
    """A scene of masks that may overlap: large ones first, and a mask within another is its part."""
    if len(masks) >= MAX_NODES:
        raise LabelsError(f"a picture may have up to {MAX_NODES - 1} masks, {kind} has {len(masks)}")
    ordered = sorted((mask for mask in masks if mask.any()), key=np.count_nonzero, reverse=True)
    labels = np.zeros(image.shape[:2], np.uint16)
    parents = [0]
    for node, mask in enumerate(ordered, start=1):
        inside = np.bincount(labels[mask], minlength=node)
        holder = int(inside.argmax())
        parents.append(holder if inside[holder] >= PART_SHARE * np.count_nonzero(mask) else 0)
        labels[mask] = node
    return Scene(image, labels, np.array(parents, np.int32), kind)


def read_picture(path: Path) -> ByteArray:
    """(H, W, 3) uint8 RGB; 16-bit pictures are scaled to their own range."""
    with Image.open(path) as picture:
        if picture.mode.startswith(("I", "F")):
            values = np.asarray(picture, np.float32)
            low, high = np.percentile(values, (0.5, 99.5))
            grey = np.clip((values - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(picture.convert("RGB"))


def _read_maps(folder: Path) -> list[Scene]:
    scenes = []
    for path in sorted(folder.iterdir()):
        label_file = None if path.suffix.lower() not in PICTURES else _label_file(path)
        if label_file is None:
            continue
        image, labels = read_picture(path), _read_labels(label_file)
        if labels.shape != image.shape[:2]:
            raise LabelsError(f"{label_file} is {labels.shape}, its picture {image.shape[:2]}: sizes must be equal")
        masks = [labels == value for value in np.unique(labels) if value != 0]
        scenes.append(make_scene(image, masks, path.name))
    return scenes


def _label_file(picture: Path) -> Path | None:
    stems = (picture.parent / MASK_FOLDER / picture.stem, picture.with_name(picture.stem + MASK_SUFFIX))
    tries = [stem.with_name(stem.name + suffix) for stem in stems for suffix in MASK_FILES]
    return next((path for path in tries if path.is_file()), None)


def _read_labels(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix in (".tif", ".tiff"):
        return np.asarray(tifffile.imread(path))
    with Image.open(path) as picture:
        labels = np.asarray(picture)
    if labels.ndim != 2:
        raise LabelsError(
            f"{path} has {labels.shape[-1]} channels: a label map has one number a pixel, 0 for background"
        )
    return labels


def _read_coco(folder: Path, coco: Path) -> list[Scene]:
    content = json.loads(coco.read_text())
    rows: dict[int, list[BoolArray]] = {}
    pictures = {entry["id"]: entry for entry in content["images"]}
    for annotation in content["annotations"]:
        entry = pictures[annotation["image_id"]]
        mask = _decode(annotation["segmentation"], entry["height"], entry["width"])
        rows.setdefault(entry["id"], []).append(mask)
    return [
        make_scene(read_picture(folder / pictures[key]["file_name"]), masks, pictures[key]["file_name"])
        for key, masks in sorted(rows.items())
    ]


def _decode(segmentation: object, height: int, width: int) -> BoolArray:
    """A COCO segmentation (polygons, RLE as text or as counts) as (height, width) bool."""
    if isinstance(segmentation, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    return np.asarray(coco_mask.decode(encoded), bool)
