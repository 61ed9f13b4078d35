"""Every mask of a picture, with any backend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sam_server.arrays import ByteArray, CoordArray
from sam_server.automatic.boxes import drop_duplicates
from sam_server.automatic.layout import Crop, axes_within, crops, tiles, zones
from sam_server.automatic.parameters import MAX_POINTS, AutomaticParameters, ParameterError
from sam_server.automatic.search import CropSearch, Progress, Watch
from sam_server.automatic.small_regions import remove_small_regions
from sam_server.automatic.tiles import join_tiles
from sam_server.backend import ImageEmbedding, SamBackend
from sam_server.masks import features
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.record import MaskRecord, make_record
from sam_server.predictor import Predictor


def generate(
    backend: SamBackend,
    pixels: ByteArray,
    parameters: AutomaticParameters,
    *,
    embedding: ImageEmbedding | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MaskSet:
    """Find every mask of a picture.

    Args:
        backend: any; a gated one lets other requests in between the chunks of points.
        pixels: (H, W, 3) uint8 RGB.
        parameters: what to look for.
        embedding: of the picture by this backend, if it is at hand.
        progress: told how far the work is after every chunk, on the caller's thread.
        cancelled: asked before every step, such as `threading.Event.is_set`.

    Returns:
        The masks in the reference's order, with mean colours and pooled embeddings; perhaps none.

    Raises:
        CancelledError: `cancelled` said so.
        ParameterError: the picture has too many tiles for that many points.
        MaskSetError: more masks were found than a mask set holds.

    Source: SamAutomaticMaskGenerator in segment_anything/automatic_mask_generator.py.
    """
    plans = _plan((pixels.shape[0], pixels.shape[1]), parameters)
    watch = _watch(plans, parameters, progress, cancelled)
    watch.check()
    if embedding is None:
        embedding = Predictor(backend).encode(pixels)
    picture = _Picture(backend, pixels, embedding, parameters, watch)
    found = [picture.search(plan) for plan in plans]
    records = found[0] if len(plans) == 1 else picture.join(found, [plan[0].crop for plan in plans])
    if parameters.min_mask_region_area:
        records = picture.remove_small_regions(records)
    return picture.to_mask_set(records)


@dataclass(frozen=True)
class _Place:
    """A crop and the part of it in which points are set, both in the picture's pixels."""

    crop: Crop
    zone: Crop

    def points(self, parameters: AutomaticParameters) -> CoordArray:
        """(N, 2) x, y in the crop's pixels, row by row; points that the request brought are all set."""
        if parameters.point_grids is not None:
            return np.array(parameters.point_grids[self.crop.layer]) * (self.crop.size[1], self.crop.size[0])
        x, y = axes_within(parameters.sides()[self.crop.layer], self.crop, self.zone)
        return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)

    def count(self, parameters: AutomaticParameters) -> int:
        """How many `points` there are."""
        if parameters.point_grids is not None:
            return len(parameters.point_grids[self.crop.layer])
        x, y = axes_within(parameters.sides()[self.crop.layer], self.crop, self.zone)
        return len(x) * len(y)


def _plan(size: tuple[int, int], parameters: AutomaticParameters) -> list[list[_Place]]:
    """For each tile of the picture, the tile itself and then its crops."""
    whole = Crop(0, 0, size[1], size[0])
    parts = [(whole, whole)]
    if parameters.tile_size is not None:
        arguments = (size, parameters.tile_size, parameters.overlap)
        parts = list(zip(tiles(*arguments), zones(*arguments), strict=True))
    layers, ratio = parameters.crop_n_layers, parameters.crop_overlap_ratio
    return [[_Place(crop.inside(part), zone) for crop in crops(part.size, layers, ratio)] for part, zone in parts]


def _watch(
    plans: Sequence[Sequence[_Place]],
    parameters: AutomaticParameters,
    progress: Callable[[Progress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Watch:
    points = sum(place.count(parameters) for plan in plans for place in plan)
    if points > MAX_POINTS:
        message = (
            f"cuts the picture into {len(plans)} tiles with {points:,} points in all; at most {MAX_POINTS:,} are "
            f"searched: raise tile_size, or lower points_per_side, crop_n_layers or tile_overlap"
        )
        raise ParameterError("tile_size", message)
    return Watch(sum(len(plan) for plan in plans), points, progress, cancelled)


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture and everything that is needed to search it.

    Attributes:
        backend: finds masks.
        pixels: (H, W, 3) uint8 RGB.
        embedding: of the whole picture.
        parameters: of the request.
        watch: counts and stops.
    """

    backend: SamBackend
    pixels: ByteArray
    embedding: ImageEmbedding
    parameters: AutomaticParameters
    watch: Watch

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.pixels.shape[0], self.pixels.shape[1])

    def search(self, plan: Sequence[_Place]) -> list[MaskRecord]:
        """The masks of one tile (or of the picture) and its crops; those of smaller crops win over duplicates."""
        found: list[MaskRecord] = []
        areas: list[int] = []
        for place in plan:
            self.watch.check()
            crop, points = place.crop, place.points(self.parameters)
            if not len(points):  # it lies where the neighbouring tile is asked; an encoding would be for nothing
                self.watch.add(crops=1)
                continue
            search = CropSearch(crop, plan[0].crop, self.size, self._embed(crop), points, self.parameters)
            records = search.run(self.backend, self.watch)
            found += records
            areas += [crop.area] * len(records)
            self.watch.add(crops=1)
        if len(plan) == 1:
            return found
        scores = np.reciprocal(np.array(areas, np.float32))
        return [found[index] for index in drop_duplicates(found, scores, self.parameters.crop_nms_thresh)]

    def _embed(self, crop: Crop) -> ImageEmbedding:
        return self.embedding if crop.size == self.size else Predictor(self.backend).encode(self.pixels[crop.slices])

    def join(self, found: Sequence[Sequence[MaskRecord]], parts: Sequence[Crop]) -> list[MaskRecord]:
        """The masks of all tiles, each object once."""
        self.watch.check()
        return join_tiles(found, parts, self.size, self.parameters.crop_nms_thresh)

    def remove_small_regions(self, records: Sequence[MaskRecord]) -> list[MaskRecord]:
        """Masks without small holes and islands; of new duplicates the mask that was not changed stays."""
        cleaned: list[MaskRecord] = []
        unchanged: list[bool] = []
        for record in records:
            self.watch.check()
            mask = remove_small_regions(record.crop(), self.parameters.min_mask_region_area)
            unchanged.append(mask is None)
            scores = (record.predicted_iou, record.stability_score)
            again = record if mask is None else make_record(mask, *scores, record.point_coords, record.crop_box)
            cleaned.append(again)
        threshold = max(self.parameters.box_nms_thresh, self.parameters.crop_nms_thresh)
        return [cleaned[index] for index in drop_duplicates(cleaned, np.array(unchanged, np.float32), threshold)]

    def to_mask_set(self, records: Sequence[MaskRecord]) -> MaskSet:
        """The records with what grouping by appearance needs."""
        self.watch.check()
        array = self.backend.embedding_array(self.embedding)
        input_size, side = self.embedding.input_size, self.backend.spec.image_size
        return MaskSet(
            self.size,
            tuple(records),
            features.mean_colours(self.pixels, records),
            features.pooled_embeddings(array, input_size, side, records),
            features.edge_contrasts(self.pixels, records),
        )
