"""Values for other processes: what goes in comes out, and what is damaged is refused."""

import dataclasses
import pickle
import zlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam_server.automatic.parameters import AutomaticParameters
from sam_server.backend import BackendInfo, ImageEmbedding, ModelSpec
from sam_server.grouping.filters import Filters
from sam_server.grouping.plan import Plan
from sam_server.grouping.presets import PRESETS
from sam_server.grouping.selection import Scale
from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from sam_server.masks.record import make_record
from sam_server.sessions import mask_sets, packing
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.sessions.packing import PackedError, pack, unpack
from sam_server.sessions.pictures import (
    SharedEmbedding,
    model_identity,
    read_logits,
    rounded_logits,
    write_logits,
)

ARRAYS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.int64, np.uint32]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)
SPEC = ModelSpec("tiny")


@given(ARRAYS, st.binary(max_size=200), st.booleans())
def test_what_goes_in_comes_out(array, file, repeated):
    file = file * 500 if repeated else file  # long runs are compressed
    read = unpack(pack("thing", {"a": [1, None, "ü"]}, {"array": array, "file": file}), "thing")
    assert read.fields == {"a": [1, None, "ü"]}
    assert read.file("file") == file
    np.testing.assert_array_equal(read.array("array", array.dtype.name, array.ndim), array)


def test_zeros_are_compressed_and_noise_is_not():
    assert len(pack("thing", {}, {"zeros": np.zeros(100_000, np.float32)})) < 5_000
    noise = np.random.default_rng(0).bytes(100_000)
    assert 100_000 < len(pack("thing", {}, {"noise": noise})) < 100_500


def test_a_flipped_bit_anywhere_is_noticed():
    whole = pack("thing", {"a": 1}, {"array": np.arange(6, dtype=np.float32), "file": b"x" * 40})
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(PackedError):
            unpack(bytes(damaged), "thing")
    for length in range(len(whole)):
        with pytest.raises(PackedError):
            unpack(whole[:length], "thing")


@pytest.mark.parametrize("data", [b"", b"SAMv1\n", b"SAMv2\n", pickle.dumps({"kind": "thing"}), orjson.dumps({})])
def test_other_bytes_are_refused(data):
    with pytest.raises(PackedError):
        unpack(data, "thing")


def test_another_kind_is_refused():
    with pytest.raises(PackedError, match="it is a thing"):
        unpack(pack("thing", {}, {}), "embedding")


def test_a_part_that_unpacks_to_more_than_it_says_is_refused():
    header = orjson.dumps(
        {
            "kind": "thing",
            "fields": {},
            "parts": [
                {
                    "name": "bomb",
                    "dtype": "bytes",
                    "shape": [10],
                    "stored": len(bomb := zlib.compress(bytes(10_000_000))),
                    "zlib": True,
                    "crc32": zlib.crc32(bomb),
                }
            ],
        }
    )
    head = packing.struct.pack("<II", len(header), zlib.crc32(header))
    read = unpack(packing.MARK + head + header + bomb, "thing")
    assert len(read.file("bomb")) == 10  # and never more


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [-1]])
def test_an_array_of_a_senseless_size_is_refused(shape):
    part = {"name": "a", "dtype": "float32", "shape": shape, "stored": 0, "zlib": False, "crc32": 0}
    header = orjson.dumps({"kind": "thing", "fields": {}, "parts": [part]})
    head = packing.struct.pack("<II", len(header), zlib.crc32(header))
    with pytest.raises(PackedError):
        unpack(packing.MARK + head + header, "thing")


def test_a_value_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(packing, "MAX_BYTES", 1000)
    with pytest.raises(PackedError, match="too large"):
        pack("thing", {}, {"zeros": bytes(2000)})


@given(hnp.arrays(np.float32, (4, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_logits_are_rounded_once(logits):
    rounded = rounded_logits(logits)
    np.testing.assert_array_equal(read_logits(write_logits(rounded)), rounded)
    np.testing.assert_array_equal(np.sign(rounded[np.abs(logits) > 1e-7]), np.sign(logits[np.abs(logits) > 1e-7]))


class FakeCoder:
    """An embedding is an array."""

    identity = "model"

    def to_array(self, embedding):
        return embedding.data

    def from_array(self, array, original_size, input_size):
        return ImageEmbedding(array, original_size, input_size, array.nbytes)


@pytest.mark.parametrize(("largest", "dtype"), [(3.0, "float16"), (1e6, "float32")])
def test_an_embedding_is_the_same_for_the_one_who_made_it_and_the_one_who_reads_it(largest, dtype):
    array = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    array[0, 0, 0] = largest
    shared = SharedEmbedding.of(ImageEmbedding(array, (10, 20), (5, 10), array.nbytes), FakeCoder())
    assert shared.array.dtype == dtype
    read = SharedEmbedding.read(shared.write("model"), "model")
    mine, theirs = shared.load(FakeCoder()), read.load(FakeCoder())
    assert mine.data.dtype == np.float32
    np.testing.assert_array_equal(mine.data, theirs.data)
    np.testing.assert_allclose(mine.data, array, rtol=2**-10, atol=1e-6)
    assert (theirs.original_size, theirs.input_size) == ((10, 20), (5, 10))
    with pytest.raises(PackedError, match="another model"):
        SharedEmbedding.read(shared.write("model"), "other")


class FakeBackend:
    """A backend that is known by its description alone."""

    def __init__(self, spec: ModelSpec, **info) -> None:
        self.spec = spec
        self.info = BackendInfo(**{"backend": "pytorch", "device": "cpu", "precision": "fp32", "engine": "x"} | info)


def test_models_are_told_apart(tmp_path):
    name = model_identity(FakeBackend(SPEC, sha256="1"))
    assert name == model_identity(FakeBackend(SPEC, sha256="1", backend="onnx", engine="y"))
    others = [
        FakeBackend(SPEC, sha256="2"),
        FakeBackend(SPEC, sha256="1", precision="bf16"),
        FakeBackend(dataclasses.replace(SPEC, model_type="vit_b"), sha256="1"),
        FakeBackend(SPEC),
        FakeBackend(SPEC),
    ]
    assert len({name, *map(model_identity, others)}) == 6  # where nothing is known of a model, it is nobody else's
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"weights")
    unknown = FakeBackend(SPEC, model_files=(str(file),))
    assert model_identity(unknown) == model_identity(unknown)
    before = model_identity(unknown)
    file.write_bytes(b"other weights")
    assert model_identity(unknown) != before


def make_set(count: int = 5, features: bool = True) -> KeptMaskSet:
    generator = np.random.default_rng(count)
    records = []
    for number in range(count):
        mask = np.zeros((30, 40), np.bool_)
        y, x = generator.integers(0, 20, 2)
        mask[y : y + 10, x : x + 12] = True
        mask[y + 2, x + 3] = number % 2 == 0
        records.append(make_record(CroppedMask.from_mask(mask), float(np.float32(0.9)), 1.0, ((1.5, 2.0),)))
    colours = generator.random((count, 3), np.float32) if features else None
    embeddings = generator.random((count, 8), np.float32) if features else None
    contrasts = generator.random(count, np.float32) * 4 if features else None
    masks = MaskSet((30, 40), tuple(records), colours, embeddings, contrasts)
    return KeptMaskSet(measure_set(masks), AutomaticParameters(points_per_side=8) if features else None)


@pytest.mark.parametrize(
    "kept", [make_set(), make_set(0), make_set(3, features=False)], ids=["whole", "empty", "plain"]
)
def test_a_mask_set_is_the_same_afterwards(kept):
    read = mask_sets.read(mask_sets.write(kept))
    assert read.parameters == kept.parameters
    assert read.measured.masks.records == kept.measured.masks.records
    before, after = kept.measured, read.measured
    for name in ("colours", "embeddings", "edge_contrasts"):
        np.testing.assert_array_equal(getattr(after.masks, name), getattr(before.masks, name))
    for name in ("measures", "overlaps", "hull_overlaps", "runs"):
        for item in dataclasses.fields(getattr(before, name)):
            ours, theirs = (getattr(getattr(found, name), item.name) for found in (before, after))
            np.testing.assert_array_equal(theirs, ours)
            assert theirs.dtype == ours.dtype
    np.testing.assert_array_equal(after.order, before.order)
    for plan in plans():
        assert read.group(plan).to_dict() == kept.group(plan).to_dict()


def test_grids_of_points_survive():
    kept = dataclasses.replace(make_set(), parameters=AutomaticParameters(None, point_grids=(((0.5, 0.25),),)))
    assert mask_sets.read(mask_sets.write(kept)).parameters == kept.parameters


def test_a_mask_set_that_makes_no_sense_is_refused():
    with pytest.raises(PackedError):
        mask_sets.read(pack(mask_sets.KIND, {"size": [3, 4], "parameters": None}, {"records": b"[{}]"}))


def plans() -> list[Plan]:
    return [Plan(preset.methods, preset.filters, Scale(0.5, "mm")) for preset in PRESETS.values()]


@pytest.mark.parametrize("plan", [*plans(), Plan((), Filters(), Scale())])
def test_a_plan_is_the_same_afterwards(plan):
    assert Plan.from_dict(orjson.loads(orjson.dumps(plan.to_dict()))) == plan
