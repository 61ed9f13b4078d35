"""What comes in and goes out of POST /group_masks: made from the dataclasses of the grouping room."""

from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, create_model

from sam_server.grouping.filters import Filters
from sam_server.grouping.presets import PRESETS
from sam_server.grouping.registry import METHODS, Method
from sam_server.masks.record import MaskFormat
from sam_server.web.schemas import In, MaskSetOut, Number, PictureOut, SearchIn, Whole


def _fields_of(dataclass: type[Any]) -> dict[str, Any]:
    """The fields of a frozen dataclass, for `create_model`; all of them have defaults."""
    assert all(item.default is not MISSING for item in fields(dataclass))
    return {item.name: (_strict(item.type), item.default) for item in fields(dataclass)}


def _strict(annotation: Any) -> Any:
    """The annotation without pydantic's conversions: `"3"` is no number here."""
    parts = get_args(annotation) or (annotation,)
    return reduce(or_, (_STRICT_TYPES.get(part, part) for part in parts))


_STRICT_TYPES: dict[Any, Any] = {int: Whole, float: Number, bool: StrictBool, str: StrictStr}


class _Strict(In):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class MethodBase(_Strict):
    """A method and its parameters; one model a method is made below."""

    method: str


def _method_model(method: Method) -> type[MethodBase]:
    name = method.name.capitalize() + "In"
    kind: Any = Literal[method.name]
    parameters = _fields_of(method.parameters)
    return create_model(name, __base__=MethodBase, __doc__=method.summary, method=(kind, ...), **parameters)


def _with_name(value: Any) -> Any:
    """A name alone is a method with its defaults."""
    return {"method": value} if isinstance(value, str) else value


if TYPE_CHECKING:  # what is made at run time, as far as types go
    FiltersIn = _Strict
    MethodIn = MethodBase
    PresetName = str
else:
    FiltersIn = create_model("FiltersIn", __base__=_Strict, __doc__=Filters.__doc__, **_fields_of(Filters))
    _MODELS = reduce(or_, (_method_model(method) for method in METHODS.values()))
    MethodIn = Annotated[Annotated[_MODELS, Field(discriminator="method")], BeforeValidator(_with_name)]
    PresetName = Literal[tuple(PRESETS)]


class GroupIn(In):
    """Groups of a kept mask set, of a session's picture, or of a picture sent along."""

    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset({"mask_set_id", "session_id", "image", "preset", "unit"})

    mask_set_id: StrictStr | None = Field(None, description="of POST /generate_masks; no model runs")
    session_id: StrictStr | None = Field(None, description="its newest fitting mask set, or a new one")
    image: StrictStr | None = Field(None, description="the picture's file as base64 or as a data URL")
    preset: PresetName | None = Field(
        None, description="filters and methods to begin with; everything if neither preset nor methods are given"
    )
    methods: list[MethodIn] | None = Field(
        None, description="in place of the preset's; a name alone means its defaults"
    )
    filters: FiltersIn | None = Field(None, description="change those of the preset one by one")
    pixel_size: Number | None = Field(None, description="side of a pixel in `unit`")
    unit: StrictStr | None = Field(None, description="such as µm; px if left out")
    include_measures: StrictBool = Field(False, description="whether the measures of every mask are sent")
    generate: SearchIn | None = Field(None, description="parameters of POST /generate_masks where masks must be found")


class DescriptionOut(BaseModel):
    """One measure of the masks of a group; null where it is not known."""

    mean: float | None
    median: float | None
    std: float | None
    coefficient_of_variation: float | None
    min: float | None
    max: float | None


class StatisticsOut(BaseModel):
    """What is said of a group."""

    count: int
    covered_share: float = Field(description="share of the picture's pixels on at least one of the masks")
    measures: dict[str, DescriptionOut]
    histogram: list[int] = Field(description="masks in each bin of equivalent diameters, see `histogram_edges`")


class OneGroupOut(BaseModel):
    """Some masks under one name."""

    name: str
    masks: list[int] = Field(description="numbers of the masks in the mask set")
    statistics: StatisticsOut


class GroupingOut(BaseModel):
    """What one method answered: every kept mask in exactly one group."""

    method: str
    parameters: dict[str, Any]
    groups: list[OneGroupOut]
    details: dict[str, Any] = Field(description="what the method found besides, such as the tree of parts")


class RemovedOut(BaseModel):
    """How many masks a filter took away."""

    filter: str
    count: int


class GroupResultOut(BaseModel):
    """Groups and statistics of the masks that passed the filters."""

    pixel_size: float
    unit: str
    kept: list[int] = Field(description="numbers of the masks that passed the filters")
    removed: list[RemovedOut]
    groupings: list[GroupingOut]
    total: StatisticsOut
    histogram_edges: list[float]


class GroupOut(PictureOut, GroupResultOut):
    """Answer of POST /group_masks."""

    mask_set_id: str
    count: int = Field(description="masks in the set, before the filters")
    parameters: dict[str, Any] = Field(description="of the search that found them; empty for masks of POST /mask_sets")
    measures: dict[str, list[float | None]] | None = Field(
        description="with include_measures: for each measure its value for every kept mask, in real units"
    )


class MaskSetPath(BaseModel):
    """The mask set in the address."""

    mask_set_id: str = Field(description="of POST /generate_masks or POST /group_masks")


class MaskSetQuery(In):
    """How a mask set is sent."""

    format: Literal["json", "coco", "csv", "xlsx", "labels_png", "labels_tiff", "overlay"] = Field(
        "json", description="JSON, COCO JSON, table of measures, 16-bit label map, or the picture with its masks"
    )
    method: StrictStr | None = Field(
        None, description="whose groups become categories, labels or colours; the masks themselves if left out"
    )
    group: StrictStr | None = Field(None, description="only the masks of this group of `method`; not in JSON")
    masks: StrictStr | None = Field(
        None,
        max_length=60_000,
        pattern=r"^[0-9]{1,9}(,[0-9]{1,9})*$",
        description="only these masks, by number with commas between; not in JSON",
    )
    mask_format: MaskFormat = Field("rle", description="how masks are written in JSON")


class KeptMaskSetOut(MaskSetOut):
    """A kept mask set with its last grouping."""

    grouping: GroupResultOut | None = Field(description="of the last POST /group_masks")
