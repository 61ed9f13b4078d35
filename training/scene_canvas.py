"""The canvas of a drawn scene: a picture and, pixel by pixel, which node of the hierarchy is seen there."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import BoolArray, ByteArray, FloatArray

# Alpha at which a painted pixel belongs to the object.
INSIDE = 0.5
# Most nodes that one scene may hold; labels are stored in 16 bits.
MAX_NODES = 4000


@dataclass(frozen=True)
class Scene:
    """A labelled picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint16, the node seen at each pixel; 0 is background.
        parents: (K + 1,) int32, the node that holds node i as a part; 0 for whole objects and for entry 0.
        kind: name in `scenes.KINDS`.
    """

    image: ByteArray
    labels: npt.NDArray[np.uint16]
    parents: npt.NDArray[np.int32]
    kind: str

    def mask(self, node: int) -> BoolArray:
        """(H, W) bool: the pixels of a node and of all its parts."""
        out: BoolArray = family(self.parents, node)[self.labels]
        return out

    def nodes(self, min_area: int = 1) -> list[int]:
        """Nodes of which at least `min_area` pixels are seen, parts included."""
        areas = node_areas(self.labels, self.parents)
        return [node for node in range(1, len(self.parents)) if areas[node] >= min_area]


def family(parents: npt.NDArray[np.int32], node: int) -> BoolArray:
    """(K + 1,) bool: which nodes are `node` or lie within it. Parents have lower numbers than their parts."""
    member = np.zeros(len(parents), bool)
    member[node] = True
    for child in np.flatnonzero(parents[node + 1 :] >= node) + node + 1:
        member[child] |= member[parents[child]]
    return member


def node_areas(labels: npt.NDArray[np.uint16], parents: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(K + 1,) pixels seen of each node, parts included."""
    areas = np.bincount(labels.ravel(), minlength=len(parents)).astype(np.int64)
    for node in range(len(parents) - 1, 0, -1):
        areas[parents[node]] += areas[node] if parents[node] else 0
    return areas


class Canvas:
    """A picture being painted, far things first."""

    def __init__(self, background: FloatArray) -> None:
        """Start from a (H, W, 3) float32 RGB picture in [0, 1]."""
        self.image = background
        self.labels = np.zeros(background.shape[:2], np.uint16)
        self.parents = [0]

    @property
    def size(self) -> int:
        """Side of the square canvas, in pixels."""
        return int(self.image.shape[0])

    def add_node(self, parent: int = 0) -> int:
        """Open a new node inside `parent`."""
        if len(self.parents) >= MAX_NODES:
            raise ValueError(f"a scene holds at most {MAX_NODES} nodes")
        self.parents.append(parent)
        return len(self.parents) - 1

    def window(self, alpha: FloatArray, x: float, y: float) -> tuple[slice, slice, slice, slice]:
        """Where a patch centred on (x, y) meets the canvas: rows, columns, and the same of the patch."""
        height, width = alpha.shape
        top, left = round(y - height / 2), round(x - width / 2)
        y1, x1 = max(top, 0), max(left, 0)
        y2, x2 = max(y1, min(top + height, self.size)), max(x1, min(left + width, self.size))
        return slice(y1, y2), slice(x1, x2), slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)

    def look_under(self, alpha: FloatArray, x: float, y: float) -> FloatArray:
        """(h, w, 3) copy of the picture under a patch; its mean colour where the patch leaves the canvas."""
        rows, columns, patch_rows, patch_columns = self.window(alpha, x, y)
        seen = self.image[rows, columns]
        out = np.empty((*alpha.shape, 3), np.float32)
        out[:] = seen.reshape(-1, 3).mean(axis=0) if seen.size else 0.5
        out[patch_rows, patch_columns] = seen
        return out

    def covered(self, alpha: FloatArray, x: float, y: float) -> float:
        """Share of a patch's object that would lie over other nodes or outside the canvas."""
        rows, columns, patch_rows, patch_columns = self.window(alpha, x, y)
        inside = alpha > INSIDE
        total = int(np.count_nonzero(inside))
        free = np.count_nonzero(inside[patch_rows, patch_columns] & (self.labels[rows, columns] == 0))
        return 1.0 - float(free) / max(total, 1)

    def paint(
        self, alpha: FloatArray, x: float, y: float, colour: FloatArray, parent: int = 0, node: int | None = None
    ) -> int:
        """Paint a patch centred on (x, y) and label it.

        Args:
            alpha: (h, w) float32 in [0, 1], the object's coverage.
            colour: (h, w, 3) or (3,) float32 RGB.
            parent: a part is painted only where this node itself is seen.
            node: an open node to extend; a new one if None.

        Returns:
            The node.
        """
        rows, columns, patch_rows, patch_columns = self.window(alpha, x, y)
        inside = alpha[patch_rows, patch_columns]
        labels = self.labels[rows, columns]
        if parent:
            inside = inside * (labels == parent)
        if node is None:
            node = self.add_node(parent)
        labels[inside > INSIDE] = node
        paint = colour if colour.ndim == 1 else colour[patch_rows, patch_columns]
        image = self.image[rows, columns]
        image += inside[..., None] * (paint - image)
        return node

    def tint(self, alpha: FloatArray, x: float, y: float, colour: FloatArray) -> None:
        """Paint a patch without labelling it: highlights, relief, shadow, dirt."""
        rows, columns, patch_rows, patch_columns = self.window(alpha, x, y)
        paint = colour if colour.ndim == 1 else colour[patch_rows, patch_columns]
        image = self.image[rows, columns]
        image += alpha[patch_rows, patch_columns][..., None] * (paint - image)

    def scene(self, kind: str) -> Scene:
        """Close the canvas."""
        image = np.clip(self.image * 255 + 0.5, 0, 255).astype(np.uint8)
        return Scene(image, self.labels, np.array(self.parents, np.int32), kind)


def edge_distance(alpha: FloatArray) -> FloatArray:
    """(h, w) float32 distance in pixels from each pixel of the object to its edge; 0 outside."""
    return cv2.distanceTransform((alpha > INSIDE).astype(np.uint8), cv2.DIST_L2, 3).astype(np.float32)
