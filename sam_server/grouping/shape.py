"""Shape classes by solidity, eccentricity and circularity."""

from dataclasses import dataclass

import numpy as np

from sam_server.grouping.errors import check_range
from sam_server.grouping.partition import MethodParameters, Partition
from sam_server.grouping.selection import Selection

NAMES = ("round", "compact", "elongated", "irregular")


@dataclass(frozen=True)
class ShapeParameters(MethodParameters):
    """Where the classes part.

    Attributes:
        min_solidity: below it a mask is irregular, 0 to 1.
        max_eccentricity: above it a mask is elongated, 0 to 1; 0.75 is an axis ratio of 1.5.
        min_circularity: from it on a mask is round, 0 to 1. On a grid of pixels a disc has about 0.9, a square of 40
            pixels 0.83; below ten pixels across everything is round.
    """

    min_solidity: float = 0.9
    max_eccentricity: float = 0.75
    min_circularity: float = 0.85

    def __post_init__(self) -> None:
        check_range("shape.min_solidity", self.min_solidity, 0, 1)
        check_range("shape.max_eccentricity", self.max_eccentricity, 0, 1)
        check_range("shape.min_circularity", self.min_circularity, 0, 1)


def group_by_shape(selection: Selection, parameters: ShapeParameters) -> Partition:
    """Put each mask into the first class that fits: irregular, elongated, round, and compact for the rest."""
    measures = selection.measures
    choices = [
        ~(measures.solidity >= parameters.min_solidity),
        measures.eccentricity > parameters.max_eccentricity,
        measures.circularity >= parameters.min_circularity,
    ]
    labels = np.select(choices, [NAMES.index(name) for name in ("irregular", "elongated", "round")], default=1)
    return Partition(labels.astype(np.int64), NAMES)
