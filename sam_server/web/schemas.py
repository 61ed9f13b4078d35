"""What comes in and what goes out, as pydantic models: checked on the way in, documented in /openapi.json."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from sam_server.automatic.parameters import OutputMode
from sam_server.masks.record import MaskFormat

# float32 is what coordinates end as; NaN and Infinity are no coordinates.
Coordinate = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PointIn = tuple[Coordinate, Coordinate]
Label = Annotated[int, Field(strict=True, ge=0, le=1)]
Number = Coordinate
# Beyond this a JSON number is no longer exact everywhere.
MAX_WHOLE = 2**53
Whole = Annotated[int, Field(strict=True, ge=-MAX_WHOLE, le=MAX_WHOLE)]
BoxIn = tuple[Coordinate, Coordinate, Coordinate, Coordinate]


class In(BaseModel):
    """A request: fields that it does not know are refused by name."""

    model_config = ConfigDict(extra="forbid")

    # Fields that are plain text where a form or a query carries them; all others are JSON there.
    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset()


class PictureIn(In):
    """A picture for a new session."""

    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset({"image"})

    image: StrictStr | None = Field(None, description="the picture's file as base64, or as a data URL")


class PromptIn(In):
    """What the mask shall be of: points, a box, an earlier mask, or several of them together."""

    points: list[PointIn] | None = Field(
        None, description="points [x, y] in pixels of the picture, after EXIF rotation"
    )
    point_labels: list[Label] | None = Field(
        None, description="one per point: 1 foreground, 0 background; all foreground if left out"
    )
    box: BoxIn | None = Field(None, description="x1, y1, x2, y2 in pixels")
    mask_id: StrictStr | None = Field(None, description="an earlier mask of the same session to continue from")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was given."""
        return self.points is None and self.point_labels is None and self.box is None and self.mask_id is None


class SegmentIn(PromptIn):
    """Prompts on a session, or on a picture sent along. The fields of one prompt may stand at the top level."""

    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset({"session_id", "image", "mask_id", "mask_format"})

    session_id: StrictStr | None = Field(None, description="of POST /sessions or of an earlier answer")
    image: StrictStr | None = Field(None, description="the picture's file as base64 or as a data URL")
    prompts: list[PromptIn] | None = Field(None, min_length=1, description="many prompts in one call")
    multimask_output: StrictBool = Field(True, description="three masks per prompt (whole, part, subpart), else one")
    mask_format: MaskFormat = Field("rle", description="how `segmentation` is written")


class SearchIn(In):
    """How to find every mask: the parameters of SamAutomaticMaskGenerator, and tiles for large pictures."""

    points_per_side: Whole | None = Field(None, description="points along one side of the grid: 32")
    points_per_batch: Whole | None = Field(None, description="most points in one call of the model: 64")
    pred_iou_thresh: Number | None = Field(None, description="least predicted IoU: 0.88")
    stability_score_thresh: Number | None = Field(None, description="least stability score: 0.95")
    stability_score_offset: Number | None = Field(None, description="threshold shift of that score, in logits: 1.0")
    box_nms_thresh: Number | None = Field(None, description="IoU of boxes above which one is a duplicate: 0.7")
    crop_n_layers: Whole | None = Field(None, description="layers of crops searched after the picture: 0")
    crop_nms_thresh: Number | None = Field(None, description="box_nms_thresh between crops: 0.7")
    crop_overlap_ratio: Number | None = Field(None, description="overlap of crops over the shorter side: 0.341")
    crop_n_points_downscale_factor: Whole | None = Field(None, description="fewer points per crop layer: 1")
    point_grids: list[list[PointIn]] | None = Field(
        None, description="points x, y in 0..1 for each layer, in place of points_per_side"
    )
    min_mask_region_area: Whole | None = Field(None, description="smaller holes and islands are removed, in pixels: 0")
    tile_size: Whole | None = Field(None, description="search larger pictures in square tiles, in pixels")
    tile_overlap: Whole | None = Field(None, description="overlap of tiles in pixels: a quarter of tile_size")


class GenerateIn(SearchIn):
    """Automatic masks of a session's picture, or of one sent along."""

    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset({"session_id", "image", "mask_format", "output_mode"})

    session_id: StrictStr | None = Field(None, description="of POST /sessions or of an earlier answer")
    image: StrictStr | None = Field(None, description="the picture's file as base64 or as a data URL")
    mask_format: MaskFormat | None = Field(None, description="how `segmentation` is written; rle if left out")
    output_mode: OutputMode | None = Field(
        None,
        description="in place of mask_format: coco_rle (rle), binary_mask (png), uncompressed_rle (list of counts)",
    )


class SessionPath(BaseModel):
    """The session in the address."""

    session_id: str = Field(description="of POST /sessions")


class ScalingOut(BaseModel):
    """How levels of more than 8 bits were brought to 8: `low` became 0 and `high` became 255."""

    low: float
    high: float
    low_percentile: float
    high_percentile: float


class PictureOut(BaseModel):
    """A kept picture."""

    session_id: str
    width: int = Field(description="pixels, after EXIF rotation")
    height: int
    scaling: ScalingOut | None = Field(description="of pictures of more than 8 bits; null for others")
    expires_at: str = Field(description="ISO 8601, UTC; every use of the session moves it")


class SessionCreated(PictureOut):
    """Answer of POST /sessions."""

    cached: bool = Field(description="whether the picture had been encoded before")


class SessionOut(PictureOut):
    """Answer of GET /sessions/ID."""

    masks: int = Field(description="how many masks can be continued by their mask_id")
    mask_sets: list[str]


class RleOut(BaseModel):
    """COCO run-length encoding, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class MultiPolygonOut(BaseModel):
    """GeoJSON MultiPolygon in pixels: parts, each a list of rings, the first its outline and the others its holes."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[tuple[float, float]]]]


class MaskOut(BaseModel):
    """One mask with the field names of SA-1B. `segmentation` is missing in the format `none`."""

    mask_id: str = Field(description="send it back in a prompt to continue from this mask")
    segmentation: RleOut | MultiPolygonOut | str | None = Field(
        None, description="rle: COCO RLE; polygon: GeoJSON MultiPolygon; png: base64 of a 1-bit PNG"
    )
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height as in COCO")
    area: int = Field(description="pixels")
    predicted_iou: float = Field(description="the model's own estimate of the mask's quality")
    stability_score: float = Field(description="IoU of the masks at a raised and a lowered threshold")
    crop_box: tuple[float, float, float, float] = Field(description="x, y, width, height")
    point_coords: list[tuple[float, float]]


class PromptOut(BaseModel):
    """The masks of one prompt, best predicted IoU first."""

    masks: list[MaskOut]


class SegmentOut(PictureOut):
    """Answer of POST /segment: one entry of `results` per prompt, in order."""

    results: list[PromptOut]


class UncompressedRleOut(BaseModel):
    """COCO run-length encoding with its counts as a list."""

    size: tuple[int, int] = Field(description="height, width")
    counts: list[int]


class FoundMaskOut(BaseModel):
    """One mask of a mask set with the field names of SA-1B. Its place in `masks` is its number in groups."""

    segmentation: RleOut | UncompressedRleOut | MultiPolygonOut | str | None = Field(
        None, description="as in POST /segment; missing in the format `none`"
    )
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height as in COCO")
    area: int = Field(description="pixels")
    predicted_iou: float
    stability_score: float
    crop_box: tuple[float, float, float, float] = Field(description="x, y, width, height of the crop it was found in")
    point_coords: list[tuple[float, float]]


class MaskSetOut(PictureOut):
    """Every mask of a picture."""

    mask_set_id: str
    count: int
    parameters: dict[str, Any] = Field(description="those in force; empty for masks of POST /mask_sets")
    masks: list[FoundMaskOut]


class CacheOut(BaseModel):
    """What sessions hold and how well it serves."""

    bytes: int
    budget_bytes: int
    sessions: int
    images: int
    mask_sets: int
    hits: int
    misses: int
    evictions: int
    expirations: int


class SharedOut(BaseModel):
    """How the store that servers share serves this one."""

    away: bool = Field(description="it does not answer: new sessions are in this server alone")
    behind: bool = Field(description="this server holds something that the store has not got yet")
    failures: int = Field(description="questions that it did not answer")
    loads: int = Field(description="pictures whose embedding another server made")
    refused: int = Field(description="values that were damaged or of another model")


class BackendInfoOut(BaseModel):
    """What runs, and what was asked for."""

    model_config = ConfigDict(protected_namespaces=())

    backend: Literal["pytorch", "onnx"]
    model_type: str
    use_gpu: bool = Field(description="whether a GPU computes now")
    performance_mode: bool
    device: str
    onnx_available: bool = Field(description="whether onnxruntime or OpenVINO is installed")
    pytorch_available: bool = Field(description="whether torch is installed")
    onnx_providers: list[str] = Field(description="bound by the loaded session; empty for PyTorch")
    requested_backend: str
    requested_model_type: str
    requested_gpu: bool
    fallback_reason: str | None = Field(description="why something else runs than was asked for")
    precision: str
    engine: str
    model_files: list[str]
    sha256: str | None = Field(description="of the checkpoint")
    notes: list[str]
    image_size: int = Field(description="side of the model input in pixels")
    warm_up_ms: float = Field(description="the first picture and click after loading")
    queue_waiting: int = Field(description="computations that wait for the model now")
    jobs: dict[str, int] = Field(description="how many jobs are in each state")
    cache: CacheOut
    shared: SharedOut | None = Field(description="of a server that shares its sessions (SAM_REDIS_URL)")
    version: str


class HealthOut(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ReadyOut(BaseModel):
    """The model is loaded."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready"]
    model_type: str
    device: str


class JobResultOut(BaseModel):
    """What a job made; GET /mask_sets/ID has the masks."""

    session_id: str
    mask_set_id: str
    count: int = Field(description="masks in the set")


class JobErrorOut(BaseModel):
    """Why a job failed."""

    code: str
    detail: str


class JobPath(BaseModel):
    """The job in the address."""

    job_id: str = Field(description="of an answer to a request with 'Prefer: respond-async'")


class JobOut(BaseModel):
    """Long work: how far it is and, once it is done, where its result is."""

    job_id: str
    kind: Literal["generate_masks", "group_masks"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: dict[str, float] = Field(description="what the work counts, such as points and points_done")
    result: JobResultOut | None = Field(description="once the state is done")
    error: JobErrorOut | None = Field(description="once the state is failed, or why the server stopped it")


class FieldError(BaseModel):
    """One wrong field."""

    field: str
    message: str


class ProblemOut(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    code: str = Field(description="stable name of the problem")
    detail: str = Field(description="what to change")
    request_id: str | None = None
    field: str | None = Field(None, description="the field that is wrong")
    errors: list[FieldError] | None = None
