"""OnnxSam against PyTorchSam with the same weights, in every engine."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_sam_wrapper
from onnx_sam_wrapper import OnnxSam, load_onnx_sam
from pytorch_sam_wrapper import PyTorchSam
from sam_server import transforms
from sam_server.backend import ImageEmbedding, SamBackend
from sam_server.onnx import engines
from sam_server.onnx.engines import CPU_PROVIDER, OPENVINO, OpenVinoEngine
from sam_server.onnx.files import find_files
from sam_server.onnx.metadata import OnnxFileError
from sam_server.predictor import Predictor
from sam_server.prompts import PromptBatch
from tests.exported import ExportedModel
from tests.onnx_backend.small_model import SMALL
from tests.reference.pictures import POINTINGS, photographs

ROUNDING = 1e-5
SHAPES = [(1, 2, False), (2, 1, False), (9, 3, False), (64, 2, False), (1, 2, True), (3, 0, True)]


@pytest.fixture(
    scope="module",
    params=[(OPENVINO, 1), (OPENVINO, 3), (CPU_PROVIDER, 1)],
    ids=["OpenVINO", "OpenVINO side by side", "ONNX Runtime"],
)
def onnx_sam(request: pytest.FixtureRequest, small_model: ExportedModel) -> OnnxSam:
    provider, threads = request.param
    return load_onnx_sam(small_model.onnx_dir, "small", [provider], threads=threads)


@pytest.fixture(scope="module")
def pytorch_sam(small_model: ExportedModel) -> PyTorchSam:
    return small_model.pytorch()


def encoded(backend: SamBackend, picture: str = "landscape") -> ImageEmbedding:
    return backend.encode([transforms.prepare(photographs()[picture], SMALL.image_size)])[0]


def batch(count: int, points: int, mask: bool, seed: int = 0) -> PromptBatch:
    """Prompts with labels of every kind anywhere on the model input."""
    rng = np.random.default_rng(seed)
    size = SMALL.spec.low_res_size
    return PromptBatch(
        rng.uniform(0, SMALL.image_size, (count, points, 2)).astype(np.float32),
        rng.integers(-1, 4, (count, points)),
        rng.normal(0, 5, (count, 1, size, size)).astype(np.float32) if mask else None,
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_is_a_backend(onnx_sam: OnnxSam, pytorch_sam: PyTorchSam) -> None:
    assert isinstance(onnx_sam, SamBackend)
    assert onnx_sam.spec == pytorch_sam.spec


def test_tells_what_runs(onnx_sam: OnnxSam, small_model: ExportedModel) -> None:
    info = onnx_sam.info
    assert (info.backend, info.device, info.precision, info.notes) == ("onnx", "cpu", "fp32", ())
    assert info.engine.split()[0] in ("openvino", "onnxruntime")
    assert info.onnx_providers in ((OPENVINO,), (CPU_PROVIDER,))
    assert info.sha256 == small_model.sha256
    assert [Path(file).name for file in info.model_files] == ["sam_small_encoder.onnx", "sam_small_decoder.onnx"]


@pytest.mark.parametrize("picture", photographs())
def test_same_embedding(onnx_sam: OnnxSam, pytorch_sam: PyTorchSam, picture: str) -> None:
    found, expected = encoded(onnx_sam, picture), encoded(pytorch_sam, picture)
    assert relative(onnx_sam.embedding_array(found), pytorch_sam.embedding_array(expected)) <= ROUNDING
    assert found.nbytes == expected.nbytes == found.data.nbytes
    assert (found.original_size, found.input_size) == (expected.original_size, expected.input_size)


def test_batch_of_pictures_of_several_shapes(onnx_sam: OnnxSam) -> None:
    images = [transforms.prepare(pixels, SMALL.image_size) for pixels in photographs().values()]
    for image, together in zip(images, onnx_sam.encode(images), strict=True):
        np.testing.assert_array_equal(together.data, onnx_sam.encode([image])[0].data)


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize(("count", "points", "mask"), SHAPES)
def test_same_masks(
    onnx_sam: OnnxSam, pytorch_sam: PyTorchSam, count: int, points: int, mask: bool, multimask_output: bool
) -> None:
    prompts = batch(count, points, mask)
    found = onnx_sam.decode(encoded(onnx_sam), prompts, multimask_output)
    expected = pytorch_sam.decode(encoded(pytorch_sam), prompts, multimask_output)
    assert relative(found.logits, expected.logits) <= ROUNDING
    assert relative(found.iou, expected.iou) <= ROUNDING


@pytest.mark.parametrize("kind", POINTINGS)
def test_same_masks_of_every_kind_of_prompt(onnx_sam: OnnxSam, pytorch_sam: PyTorchSam, kind: str) -> None:
    pixels = photographs()["portrait"]
    size = SMALL.spec.low_res_size
    logits = np.random.default_rng(1).normal(0, 5, (size, size)).astype(np.float32)
    prompt = POINTINGS[kind].on(pixels.shape[:2], logits)
    found, expected = (
        predictor.predict(predictor.encode(pixels), [prompt])[0]
        for predictor in (Predictor(onnx_sam), Predictor(pytorch_sam))
    )
    assert relative(found.logits, expected.logits) <= ROUNDING
    assert (found.masks != expected.masks).mean() <= ROUNDING


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_same_candidates(onnx_sam: OnnxSam, pytorch_sam: PyTorchSam, share: float, mask: bool) -> None:
    """All, some or none of the masks, in the order of `decode`."""
    prompts = batch(11, 2, mask)
    everything = pytorch_sam.decode(encoded(pytorch_sam), prompts, True)
    # Between two values, so that rounding does not decide.
    ordered = np.sort(everything.iou.ravel())
    cut = int(share * len(ordered))
    bounds = np.concatenate([[ordered[0] - 1], (ordered[1:] + ordered[:-1]) / 2, [ordered[-1] + 1]])
    min_iou = float(bounds[cut])
    found = onnx_sam.decode_above(encoded(onnx_sam), prompts, min_iou)
    expected = pytorch_sam.decode_above(encoded(pytorch_sam), prompts, min_iou)
    np.testing.assert_array_equal(found.prompt, expected.prompt)
    assert len(found.prompt) == len(ordered) - cut
    assert found.logits.shape == expected.logits.shape
    if len(found.prompt):
        assert relative(found.logits, expected.logits) <= ROUNDING
        assert relative(found.iou, expected.iou) <= ROUNDING


def test_a_prompt_gets_the_same_mask_alone_and_in_company(onnx_sam: OnnxSam) -> None:
    embedding, prompts = encoded(onnx_sam), batch(9, 2, False)
    together = onnx_sam.decode(embedding, prompts, True)
    for row in range(len(prompts)):
        alone = onnx_sam.decode(embedding, prompts[row : row + 1], True)
        assert relative(together.logits[row : row + 1], alone.logits) <= ROUNDING


def test_threads_share_it(onnx_sam: OnnxSam) -> None:
    """Two pictures and many prompts at once give what each gives alone."""
    pictures = ["landscape", "portrait"] * 4
    expected = {
        name: onnx_sam.decode(encoded(onnx_sam, name), batch(5, 2, False), True).logits for name in set(pictures)
    }
    found: list[np.ndarray | None] = [None] * len(pictures)

    def work(row: int, name: str) -> None:
        found[row] = onnx_sam.decode(encoded(onnx_sam, name), batch(5, 2, False), True).logits

    threads = [threading.Thread(target=work, args=(row, name)) for row, name in enumerate(pictures)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, logits in zip(pictures, found, strict=True):
        np.testing.assert_array_equal(logits, expected[name])


def test_an_embedding_is_not_changed_by_the_next(onnx_sam: OnnxSam) -> None:
    """Engines write every answer into the same memory."""
    first = encoded(onnx_sam, "landscape")
    before = onnx_sam.embedding_array(first)
    encoded(onnx_sam, "portrait")
    np.testing.assert_array_equal(onnx_sam.embedding_array(first), before)


def test_openvino_goes_before_onnx_runtime_on_a_cpu(small_model: ExportedModel) -> None:
    assert load_onnx_sam(small_model.onnx_dir, "small", use_gpu=False).info.onnx_providers == (OPENVINO,)


def test_without_openvino_onnx_runtime_runs(small_model: ExportedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    assert load_onnx_sam(small_model.onnx_dir, "small", use_gpu=False).info.onnx_providers == (CPU_PROVIDER,)


def test_fastest_is_bf16_where_the_processor_has_it(small_model: ExportedModel) -> None:
    info = load_onnx_sam(small_model.onnx_dir, "small", use_gpu=False, fastest=True).info
    assert info.precision == ("bf16" if engines.openvino_has_bf16() else "fp32")


def test_bf16_is_near_where_the_processor_has_it(small_model: ExportedModel, pytorch_sam: PyTorchSam) -> None:
    backend = load_onnx_sam(small_model.onnx_dir, "small", [OPENVINO], precision="bf16")
    prompts = batch(9, 2, False)
    found = backend.decode(encoded(backend), prompts, True)
    expected = pytorch_sam.decode(encoded(pytorch_sam), prompts, True)
    error = relative(found.logits, expected.logits)
    if backend.info.precision == "bf16":
        assert 1e-4 < error <= 5e-2  # as many digits as bf16 has, and no more
        assert backend.info.notes == ()
    else:
        assert error <= 1e-4
        assert backend.info.notes == (f"bf16 was asked for, but {OPENVINO} computes these files in fp32 here",)
    if engines.openvino_has_bf16():
        assert backend.info.precision == "bf16"


def test_bf16_without_openvino_is_said(small_model: ExportedModel, caplog: pytest.LogCaptureFixture) -> None:
    info = load_onnx_sam(small_model.onnx_dir, "small", [CPU_PROVIDER], precision="bf16").info
    assert info.precision == "fp32"
    assert info.notes == (f"bf16 was asked for, but {CPU_PROVIDER} computes these files in fp32 here",)
    assert info.notes[0] in caplog.text


def test_a_gpu_that_is_not_there_is_said(small_model: ExportedModel, caplog: pytest.LogCaptureFixture) -> None:
    info = load_onnx_sam(small_model.onnx_dir, "small", use_gpu=True).info
    assert info.device == "cpu"
    assert "a GPU was asked for, but this onnxruntime" in info.notes[0]
    assert info.notes[0] in caplog.text


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in available provider names")
def test_a_gpu_that_does_not_bind_is_said(
    small_model: ExportedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """ONNX Runtime goes on without a word where CUDA was compiled in and fails; this build never binds it."""
    listed = (OPENVINO, "CUDAExecutionProvider", CPU_PROVIDER)
    monkeypatch.setattr(onnx_sam_wrapper, "available_providers", lambda: listed)
    info = load_onnx_sam(small_model.onnx_dir, "small", use_gpu=True).info
    assert (info.device, info.onnx_providers) == ("cpu", (OPENVINO,))
    assert info.notes[0].startswith("CUDAExecutionProvider did not bind")
    assert info.notes[0] in caplog.text


REFUSALS: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"providers": ["RocketExecutionProvider"]}, ValueError, "RocketExecutionProvider is not installed; options are"),
    ({"providers": []}, ValueError, "options are OpenVINO, "),
    ({"precision": "fp8"}, ValueError, "unknown precision 'fp8'; options are auto, fp32"),
    ({"precision": "int8"}, OnnxFileError, "is in fp32, and int8 was asked for; .* --force --precision int8"),
    ({"precision": "fp16"}, OnnxFileError, "is in fp32, and fp16 was asked for"),
    ({"model_type": "other"}, OnnxFileError, r"sam_other_encoder\.onnx is missing"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSALS)
def test_refuses(
    small_model: ExportedModel,
    options: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        load_onnx_sam(small_model.onnx_dir, **{"model_type": "small", "use_gpu": False, **options})


@pytest.mark.parametrize("provider", [OPENVINO, CPU_PROVIDER])
def test_a_damaged_graph_is_refused(small_model: ExportedModel, tmp_path: Path, provider: str) -> None:
    """Whole to the eye of the metadata, for its end and lengths are right."""
    for path in small_model.onnx_dir.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"MatMul", b"MatMux"))
    with pytest.raises(OnnxFileError, match=r"sam_small_encoder\.onnx cannot be loaded .* --model-type small --force"):
        load_onnx_sam(tmp_path, "small", [provider])


class TestSideBySide:
    """Calls of one decoder that are computed at the same time."""

    @pytest.fixture
    def decoder(self, small_model: ExportedModel) -> OpenVinoEngine:
        path = find_files(small_model.onnx_dir, "small").decoder
        return OpenVinoEngine(path, "fp32", 2, begins_with=onnx_sam_wrapper.PICTURE_INPUTS, side_by_side=True)

    @pytest.fixture
    def calls(self, decoder: OpenVinoEngine) -> list[dict[str, Any]]:
        size = SMALL.spec.low_res_size
        embedding = np.random.default_rng(0).normal(0, 1, (1, SMALL.embedding_channels, size // 4, size // 4))
        values = (embedding.astype(np.float32), np.zeros((1, 1, size, size), np.float32), np.zeros(1, np.float32))
        picture = decoder.begin(dict(zip(onnx_sam_wrapper.PICTURE_INPUTS, values, strict=True)))
        chosen = {"mask_indices": np.array([1, 2, 3]), "min_iou": np.array([-np.inf], np.float32)}
        prompts = [batch(2, 2, False, seed) for seed in range(7)]
        return [
            {"point_coords": p.point_coords, "point_labels": p.point_labels.astype(np.float32), **chosen, **picture}
            for p in prompts
        ]

    def test_results_are_in_order_and_equal_those_one_by_one(
        self, decoder: OpenVinoEngine, calls: list[dict[str, Any]]
    ) -> None:
        assert decoder.side_by_side == 2
        for found, inputs in zip(decoder.run_all(calls), calls, strict=True):
            for array, expected in zip(found, decoder.run(inputs), strict=True):
                assert relative(array, expected) <= ROUNDING

    def test_a_caller_that_has_enough_leaves_nothing_behind(
        self, decoder: OpenVinoEngine, calls: list[dict[str, Any]]
    ) -> None:
        for _ in range(3):
            results = decoder.run_all(calls)
            next(iter(results))
            results.close()  # type: ignore[attr-defined]  # it is a generator
        assert len(list(decoder.run_all(calls))) == len(calls)

    def test_a_call_that_fails_is_reported_and_the_next_one_works(
        self, decoder: OpenVinoEngine, calls: list[dict[str, Any]]
    ) -> None:
        broken = [*calls[:2], {**calls[2], "point_coords": np.zeros((2, 5, 7), np.float32)}]
        with pytest.raises(RuntimeError):
            list(decoder.run_all(broken))
        assert len(list(decoder.run_all(calls))) == len(calls)
