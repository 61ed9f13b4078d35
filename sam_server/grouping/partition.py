"""What a method answers: every mask in exactly one group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sam_server.arrays import IntArray


@dataclass(frozen=True)
class MethodParameters:
    """Base of the parameters of a method; every field has a default."""


@dataclass(frozen=True, eq=False)
class Partition:
    """n masks cut into G groups.

    Attributes:
        labels: (n,) int64 number of each mask's group, 0 to G - 1.
        names: name of each group.
        details: what the method found besides, as JSON values; masks are named by their index in the mask set.
    """

    labels: IntArray
    names: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


def components(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Number the connected components of a graph by the first node of each.

    Args:
        count: nodes.
        first: (E,) one end of each edge.
        second: (E,) the other end.

    Returns:
        (count,) int64 component of each node.
    """
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(count, count))
    return renumber(connected_components(graph, directed=False)[1])


def renumber(labels: IntArray) -> IntArray:
    """Number groups 0, 1, 2 ... in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def gather_small(labels: IntArray, min_size: int) -> tuple[IntArray, bool]:
    """Put all groups of fewer than `min_size` masks into one, behind the others.

    Returns:
        The labels renumbered, and whether the last group is the gathered one.
    """
    if len(labels) == 0:
        return labels, False
    small = np.bincount(labels)[labels] < min_size
    if not small.any():
        return renumber(labels), False
    kept = renumber(labels[~small])
    gathered = np.full(len(labels), kept.max() + 1 if len(kept) else 0)
    gathered[~small] = kept
    return gathered, True
