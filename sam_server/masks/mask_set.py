"""All masks of one picture, kept so that they can be grouped again without running the model."""

from dataclasses import dataclass

from sam_server.arrays import FloatArray
from sam_server.masks.record import MaskRecord

# A 64 x 64 grid of points gives at most 12,288 masks before duplicates go; pairs of masks grow with the square.
MAX_MASKS = 10_000


class MaskSetError(ValueError):
    """Records or features that do not make a mask set; the message says why."""


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The masks of one picture, with what grouping needs of its pixels. A mask's index is its name.

    Attributes:
        size: (H, W) of the picture in pixels.
        records: N masks of that size, N <= MAX_MASKS.
        colours: (N, 3) float32 mean RGB on each mask, 0 to 255, from `features.mean_colours`; None if unknown.
        embeddings: (N, C) float32 mean image embedding on each mask, from `features.pooled_embeddings`;
            None if unknown.
        edge_contrasts: (N,) float32 RMS contrast along each outline, from `features.edge_contrasts`; None if unknown,
            or where a caller brought the masks.
    """

    size: tuple[int, int]
    records: tuple[MaskRecord, ...]
    colours: FloatArray | None = None
    embeddings: FloatArray | None = None
    edge_contrasts: FloatArray | None = None

    def __post_init__(self) -> None:
        count = len(self.records)
        if count > MAX_MASKS:
            raise MaskSetError(f"a mask set holds at most {MAX_MASKS} masks, not {count}: raise the score thresholds")
        if any(record.size != self.size for record in self.records):
            raise MaskSetError(f"every mask must have the picture's size, {self.size[1]} x {self.size[0]} pixels")
        if self.colours is not None and self.colours.shape != (count, 3):
            raise MaskSetError(f"colours must be ({count}, 3), not {self.colours.shape}")
        if self.embeddings is not None and (self.embeddings.ndim != 2 or len(self.embeddings) != count):
            raise MaskSetError(f"embeddings must be ({count}, C), not {self.embeddings.shape}")
        if self.edge_contrasts is not None and self.edge_contrasts.shape != (count,):
            raise MaskSetError(f"edge_contrasts must be ({count},), not {self.edge_contrasts.shape}")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def nbytes(self) -> int:
        """Memory that the set holds, in bytes, near enough for a budget."""
        arrays = [array.nbytes for array in (self.colours, self.embeddings, self.edge_contrasts) if array is not None]
        return sum(record.nbytes for record in self.records) + sum(arrays)
