"""Masks that look alike: by their mean image embedding, their mean colour, or both."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import FloatArray, IntArray
from sam_server.grouping.errors import GroupingError, check_choice, check_range
from sam_server.grouping.partition import MethodParameters, Partition, renumber
from sam_server.grouping.selection import Selection

Features = npt.NDArray[np.float64]

FEATURES = ("embedding", "colour", "both", "auto")
ALGORITHMS = ("hdbscan", "agglomerative")

# A difference of 50 in CIELAB counts as much as directions of the embedding at a right angle.
_LAB_UNIT = 50.0
# Agglomeration takes memory of the square of the masks.
MAX_AGGLOMERATED = 3_000
# HDBSCAN compares along this many principal axes: in hundreds no tree saves it from comparing all with all.
MAX_AXES = 16


@dataclass(frozen=True)
class AppearanceParameters(MethodParameters):
    """How looks are compared.

    Attributes:
        features: "embedding", "colour", "both", or "auto" for what the mask set has.
        algorithm: "hdbscan" finds the number of groups itself and leaves odd ones out; "agglomerative" joins the
            closest until `groups` are left or `max_distance` is passed.
        min_members: of an HDBSCAN group, 2 or more.
        groups: number of agglomerative groups; decided by max_distance if None.
        max_distance: average distance within an agglomerative group, above 0. 0 is equal; unrelated embeddings
            lie about 1.4 apart, and colours of a difference of 50 in CIELAB 1.
        like: index of a mask: instead of clusters, what looks like this one and what does not.
        min_similarity: for `like`, 0 to 1: 1 is equal, 0.5 lies at a distance of 1.
    """

    features: str = "auto"
    algorithm: str = "hdbscan"
    min_members: int = 3
    groups: int | None = None
    max_distance: float = 0.5
    like: int | None = None
    min_similarity: float = 0.7

    def __post_init__(self) -> None:
        check_choice("appearance.features", self.features, FEATURES)
        check_choice("appearance.algorithm", self.algorithm, ALGORITHMS)
        check_range("appearance.min_members", self.min_members, 2)
        check_range("appearance.groups", self.groups, 1)
        check_range("appearance.max_distance", self.max_distance, 1e-9)
        check_range("appearance.like", self.like, 0)
        check_range("appearance.min_similarity", self.min_similarity, 0, 1)


def group_by_appearance(selection: Selection, parameters: AppearanceParameters) -> Partition:
    """Group masks that look alike.

    Raises:
        GroupingError: the mask set has no such features, or `like` is not among the masks that are left.

    Source: Campello, Moulavi & Sander 2013, HDBSCAN.
    """
    features, used = _features(selection, parameters.features)
    if parameters.like is not None:
        return _like(selection.index, features, parameters, used)
    if len(features) < 2:
        return Partition(np.zeros(len(features), np.int64), ("look 1",) * len(features), {"features": used})
    if parameters.algorithm == "agglomerative":
        labels = _agglomerate(features, parameters)
    else:
        members = min(parameters.min_members, len(features))
        # Imported here, for it takes as long as all the rest of a server's start, and few ask for it.
        from sklearn.cluster import HDBSCAN

        labels = HDBSCAN(min_cluster_size=members, min_samples=2, copy=True).fit_predict(_main_axes(features))
    other = labels < 0
    numbered = np.full(len(labels), -1, np.int64)
    numbered[~other] = renumber(labels[~other])
    groups = int(numbered.max()) + 1
    numbered[other] = groups
    names = [f"look {k + 1}" for k in range(groups)] + ["other"] * bool(other.any())
    return Partition(numbered, tuple(names), {"features": used})


def _like(index: IntArray, features: Features, parameters: AppearanceParameters, used: str) -> Partition:
    row = np.flatnonzero(index == parameters.like)
    if len(row) == 0:
        raise GroupingError(f"mask {parameters.like} is not in the set, or was filtered away", "appearance.like")
    similarity = 1 / (1 + np.linalg.norm(features - features[row], axis=1) ** 2)
    labels = (similarity < parameters.min_similarity).astype(np.int64)
    ranked = sorted(zip((-similarity).tolist(), index.tolist(), strict=True))
    ranking = [{"mask": mask, "similarity": -negative} for negative, mask in ranked]
    return Partition(labels, ("alike", "other"), {"features": used, "similarity": ranking})


def _agglomerate(features: Features, parameters: AppearanceParameters) -> IntArray:
    if len(features) > MAX_AGGLOMERATED:
        message = f"agglomerative takes at most {MAX_AGGLOMERATED} masks, not {len(features)}: use hdbscan"
        raise GroupingError(message, "appearance.algorithm")
    from sklearn.cluster import AgglomerativeClustering  # here for the reason given above

    groups = None if parameters.groups is None else min(parameters.groups, len(features))
    distance = parameters.max_distance if groups is None else None
    model = AgglomerativeClustering(n_clusters=groups, distance_threshold=distance, linkage="average")
    labels: IntArray = model.fit_predict(features)
    return labels


def _main_axes(features: Features) -> Features:
    """(n, MAX_AXES) coordinates along the axes of the largest spread; the features themselves if they are no more."""
    if features.shape[1] <= MAX_AXES or len(features) <= MAX_AXES:
        return features
    from sklearn.decomposition import PCA  # here for the reason given above

    axes: Features = PCA(MAX_AXES, svd_solver="covariance_eigh").fit_transform(features)
    return axes


def _features(selection: Selection, wanted: str) -> tuple[Features, str]:
    """(n, F) features whose Euclidean distance compares looks, and which they are."""
    colours, embeddings = selection.colours, selection.embeddings
    if wanted == "auto":
        wanted = "both" if colours is not None and embeddings is not None else "colour"
        wanted = "embedding" if colours is None else wanted
    parts: list[Features] = []
    if wanted in ("embedding", "both"):
        if embeddings is None:
            raise GroupingError("the mask set holds no image embeddings", "appearance.features")
        parts.append(_directions(embeddings))
    if wanted in ("colour", "both"):
        if colours is None:
            raise GroupingError("the mask set holds no colours", "appearance.features")
        parts.append(_lab(colours) / _LAB_UNIT)
    return np.concatenate(parts, axis=1) / np.sqrt(len(parts)), wanted


def _directions(embeddings: FloatArray) -> Features:
    """Unit vectors from the mean of the set: what all masks share tells none apart."""
    centred = embeddings.astype(np.float64)
    centred = centred - centred.mean(axis=0) if len(centred) > 1 else centred
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    directions: Features = centred / np.maximum(length, 1e-12)
    return directions


def _lab(colours: FloatArray) -> Features:
    """(n, 3) RGB, 0 to 255, as CIELAB; black where unknown."""
    if len(colours) == 0:  # OpenCV takes no empty picture
        return np.zeros((0, 3))
    known = np.nan_to_num(colours)[None] / np.float32(255)
    lab: Features = cv2.cvtColor(known.astype(np.float32), cv2.COLOR_RGB2Lab)[0].astype(np.float64)
    return lab
