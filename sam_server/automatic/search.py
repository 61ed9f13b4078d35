"""Every mask of one crop: points through the decoder in chunks, then the best of those that overlap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from sam_server import transforms
from sam_server.arrays import CoordArray, IntArray
from sam_server.automatic.boxes import non_maximum_suppression, touches_crop_edge
from sam_server.automatic.candidate import Candidate, Frame
from sam_server.automatic.layout import Crop
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.backend import Candidates, ImageEmbedding, ModelSpec, SamBackend
from sam_server.masks.crop import CroppedMask
from sam_server.masks.record import MaskRecord, make_record
from sam_server.prompts import LABEL_FOREGROUND, LABEL_PADDING, PromptBatch

# Points between two looks at `cancelled` on a CPU, where a chunk of ViT-B takes some tenths of a second.
CPU_CHUNK = 16

# Low-res logits that wait for the end of a crop; past that, masks are finished early and only their RLE is kept.
MAX_WAITING_BYTES = 128 * 2**20


class CancelledError(Exception):
    """The work was cancelled."""


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    Attributes:
        crops_done: crops (or tiles and their crops) that are finished.
        crops: of so many.
        points_done: points that went through the model.
        points: of so many.
        masks: masks found so far whose predicted IoU is good enough, before duplicates go.
    """

    crops_done: int
    crops: int
    points_done: int
    points: int
    masks: int


class Watch:
    """Counts what is done, tells it, and stops the work when it is cancelled.

    Args:
        crops: how many there are.
        points: points of all crops together.
        progress: called after every chunk.
        cancelled: asked before every step; the work stops when it says so.
    """

    def __init__(
        self,
        crops: int,
        points: int,
        progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._state = Progress(0, crops, 0, points, 0)
        self._progress = progress
        self._cancelled = cancelled

    def check(self) -> None:
        """Stop if asked to.

        Raises:
            CancelledError: the work is not wanted any more.
        """
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("the search for masks was cancelled")

    def add(self, crops: int = 0, points: int = 0, masks: int = 0) -> None:
        """Count finished work and tell it."""
        state = self._state
        self._state = replace(
            state,
            crops_done=state.crops_done + crops,
            points_done=state.points_done + points,
            masks=state.masks + masks,
        )
        if self._progress is not None:
            self._progress(self._state)


@dataclass(frozen=True, eq=False)
class CropSearch:
    """One crop of one picture, ready to be searched.

    Attributes:
        crop: in the picture's pixels.
        bounds: the picture, or the tile of it, that the crop is cut from; masks may end at its edges.
        size: (H, W) of the picture.
        embedding: of the crop.
        points: (N, 2) float64 x, y in the crop's pixels.
        parameters: of the request.
    """

    crop: Crop
    bounds: Crop
    size: tuple[int, int]
    embedding: ImageEmbedding
    points: CoordArray
    parameters: AutomaticParameters

    def run(self, backend: SamBackend, watch: Watch) -> list[MaskRecord]:
        """Find the crop's masks, without duplicates, best predicted IoU first.

        Raises:
            CancelledError: `watch` was told to stop.
        """
        waiting = _Waiting(self, backend.spec)
        for chunk, found in self._decode(backend, watch):
            waiting.add(chunk, found)
            watch.add(points=len(chunk), masks=len(found.iou))
        return waiting.settle(watch)

    def _decode(self, backend: SamBackend, watch: Watch) -> Iterator[tuple[CoordArray, Candidates]]:
        """Chunks of points with the masks whose predicted IoU is good enough."""
        limit = self.parameters.pred_iou_thresh or -np.inf
        size = self.parameters.points_per_batch
        if backend.info.device == "cpu":
            size = min(size, CPU_CHUNK)
        for start in range(0, len(self.points), size):
            watch.check()
            chunk = self.points[start : start + size]
            yield chunk, backend.decode_above(self.embedding, self._prompts(chunk), limit)

    def _prompts(self, points: CoordArray) -> PromptBatch:
        """One foreground point a prompt, closed by the padding point."""
        coords = np.zeros((len(points), 2, 2), np.float32)
        coords[:, 0] = transforms.to_input_coords(points, self.embedding.original_size, self.embedding.input_size)
        labels = np.tile(np.array([LABEL_FOREGROUND, LABEL_PADDING], np.int64), (len(points), 1))
        return PromptBatch(coords, labels)


class _Waiting:
    """Masks that wait for the end of their crop, when it is known which of them are duplicates.

    Most are, and then neither their pixels nor their stability are ever computed: a mask that a better one suppresses
    goes whether it is stable or not, and one that is not stable suppresses nothing.
    """

    def __init__(self, search: CropSearch, spec: ModelSpec) -> None:
        self._search = search
        embedding, offset = search.embedding, search.parameters.stability_score_offset
        self._frame = Frame.of(spec, embedding.input_size, search.crop.size, offset)
        self._nbytes = 0
        self._candidates: list[Candidate | None] = []
        self._records: list[MaskRecord | None] = []
        self._boxes: list[IntArray] = []
        self._ious: list[np.float32] = []
        self._points: list[tuple[float, float]] = []

    def add(self, points: CoordArray, found: Candidates) -> None:
        """Take what one chunk of points (N, 2) gave, less the masks that an edge of the crop cuts."""
        crop = self._search.crop
        origin = np.array([crop.x1, crop.y1, crop.x1, crop.y1])
        for prompt, logits, iou in zip(found.prompt, found.logits, found.iou, strict=True):
            candidate = Candidate.cut(logits, self._frame)
            box = candidate.box() + origin
            if touches_crop_edge(box, crop, self._search.bounds):
                continue
            x, y = points[prompt].tolist()
            self._candidates.append(candidate)
            self._records.append(None)
            self._boxes.append(box)
            self._ious.append(iou)
            self._points.append((x + crop.x1, y + crop.y1))
            self._nbytes += candidate.nbytes
        if self._nbytes > MAX_WAITING_BYTES:
            for index in range(len(self._candidates)):
                self._finish(index)
            self._nbytes = 0

    def settle(self, watch: Watch) -> list[MaskRecord]:
        """The stable masks without duplicates, best predicted IoU first."""

        def stable(index: int) -> bool:
            watch.check()
            self._finish(index)
            return self._records[index] is not None

        boxes = np.array(self._boxes, np.int64).reshape(-1, 4)
        scores = np.array(self._ious, np.float32)
        kept = non_maximum_suppression(boxes, scores, self._search.parameters.box_nms_thresh, stable)
        return [record for record in (self._records[index] for index in kept) if record is not None]

    def _finish(self, index: int) -> None:
        """Turn a candidate into a record, if it is stable; once."""
        candidate = self._candidates[index]
        if candidate is None:
            return
        self._candidates[index] = None
        mask, score = candidate.finish()
        # The reference compares in float32.
        if np.float32(score) >= np.float32(self._search.parameters.stability_score_thresh):
            crop = self._search.crop
            placed = CroppedMask(self._search.size, mask.x + crop.x1, mask.y + crop.y1, mask.pixels)
            iou, point = float(self._ious[index]), self._points[index]
            self._records[index] = make_record(placed, iou, score, (point,), crop.bbox)
