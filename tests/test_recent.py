import gc

import numpy as np
import pytest

from sam_server.backend import ImageEmbedding
from sam_server.recent import KEPT_PICTURES, RecentPictures


def embedding() -> ImageEmbedding:
    return ImageEmbedding(np.zeros((1, 8, 4, 4), np.float32), (4, 4), (4, 4), 0)


def fail() -> int:
    raise AssertionError("it was kept, and derived again")


def test_each_picture_has_its_own_and_is_derived_once():
    recent = RecentPictures[int]()
    first, second = embedding(), embedding()  # equal in all that they hold
    assert [recent.get(first, lambda: 1), recent.get(second, lambda: 2)] == [1, 2]
    assert [recent.get(first, fail), recent.get(second, fail)] == [1, 2]


def test_the_one_not_asked_for_goes_first():
    recent = RecentPictures[int](limit=2)
    a, b, c = embedding(), embedding(), embedding()
    recent.get(a, lambda: 1)
    recent.get(b, lambda: 2)
    recent.get(a, fail)
    recent.get(c, lambda: 3)
    assert len(recent) == 2
    assert [recent.get(a, fail), recent.get(c, fail), recent.get(b, lambda: 4)] == [1, 3, 4]


def test_nothing_is_kept_of_a_picture_that_is_gone():
    recent = RecentPictures[int]()
    for number in range(5 * KEPT_PICTURES):  # memory is used again, and with it the identity
        assert recent.get(embedding(), lambda number=number: number) == number
    gc.collect()
    assert len(recent) == 0


def test_what_fails_is_not_kept():
    recent, picture = RecentPictures[int](), embedding()
    with pytest.raises(AssertionError):
        recent.get(picture, fail)
    assert recent.get(picture, lambda: 7) == 7
