"""What is asked of grouping, as a value that can be written down and run again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sam_server.grouping.filters import Filters
from sam_server.grouping.group import GroupResult, group_masks
from sam_server.grouping.partition import MethodParameters
from sam_server.grouping.registry import make_parameters, method_of
from sam_server.grouping.selection import Scale
from sam_server.masks.measured_set import MeasuredSet


@dataclass(frozen=True)
class Plan:
    """Methods, filters and the size of a pixel: with a mask set they give the same groups every time.

    Attributes:
        methods: parameters of each method.
        filters: applied first.
        scale: size of a pixel.
    """

    methods: tuple[MethodParameters, ...]
    filters: Filters
    scale: Scale

    def run(self, measured: MeasuredSet) -> GroupResult:
        """Group a measured set."""
        return group_masks(measured, self.methods, self.filters, self.scale)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        methods = [[method_of(parameters).name, asdict(parameters)] for parameters in self.methods]
        return {"methods": methods, "filters": asdict(self.filters), "scale": asdict(self.scale)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan that `to_dict` wrote.

        Raises:
            GroupingError: a value makes no sense.
            KeyError, TypeError, ValueError: it is not what `to_dict` wrote.
        """
        methods = tuple(make_parameters(name, given) for name, given in values["methods"])
        return cls(methods, Filters(**values["filters"]), Scale(**values["scale"]))
