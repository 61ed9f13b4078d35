"""Loading a checkpoint, choosing a device and a precision, and many threads on one model."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage import data

import pytorch_sam_wrapper
from pytorch_sam_wrapper import PyTorchSam, choose_device, choose_precision, load_pytorch_sam
from sam_server.backend import SamBackend
from sam_server.checkpoints.load import CheckpointError
from sam_server.network.sam import WeightsError, build_sam
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt
from tests.debian import program

CPU = torch.device("cpu")
# A mask boundary moves by a fraction of a low-res pixel in half precision.
HALF_PRECISION_FLIPS = 0.02


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "sam_tiny.safetensors"
    save_file(build_sam(VARIANTS["tiny"]).state_dict(), path)
    return path


def test_a_loaded_model_tells_what_it_is(checkpoint: Path) -> None:
    backend = load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=False, sha256="abc")
    assert isinstance(backend, SamBackend)
    assert backend.spec == VARIANTS["tiny"].spec
    assert backend.info.device == "cpu"
    assert backend.info.precision == "fp32"
    assert backend.info.model_files == (str(checkpoint),)
    assert backend.info.sha256 == "abc"
    assert backend.info.notes == ()
    assert backend.info.engine.startswith("torch 2.")


def test_config_beside_the_file_wins_over_the_model_type(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "sam.safetensors").write_bytes(checkpoint.read_bytes())
    (tmp_path / "config.json").write_text(VARIANTS["tiny"].to_json())
    assert load_pytorch_sam(tmp_path / "sam.safetensors", use_gpu=False).spec.model_type == "tiny"


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT like the official ones, with windows and a global block, that compiles in seconds."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    small = SamVariant("small", width=64, depth=2, heads=2, window=7, global_blocks=(1,), image_size=256)
    save_file(build_sam(small).state_dict(), folder / "sam_small.safetensors")
    (folder / "config.json").write_text(small.to_json())
    return folder / "sam_small.safetensors"


# torch's compiler imports parts of torch that torch deprecates.
ignore_torch_itself = pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")


@ignore_torch_itself
def test_a_compiled_encoder_gives_the_same_embedding(small_checkpoint: Path) -> None:
    program("g++", "g++")
    picture = data.astronaut()[:200, :256]
    plain, compiled = (
        Predictor(load_pytorch_sam(small_checkpoint, use_gpu=False, compiled=wanted)) for wanted in (False, True)
    )
    assert compiled.backend.info.engine.endswith(", compiled")
    assert not compiled.backend.info.notes
    expected = plain.backend.embedding_array(plain.encode(picture))
    found = compiled.backend.embedding_array(compiled.encode(picture))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    pair = compiled.encode_batch([picture, picture])  # another shape than the one it was compiled for
    np.testing.assert_allclose(compiled.backend.embedding_array(pair[1]), expected, rtol=1e-4, atol=1e-3)


@ignore_torch_itself
def test_where_compiling_fails_the_model_runs_uncompiled_and_says_so(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    torch.compiler.reset()
    backend = load_pytorch_sam(small_checkpoint, use_gpu=False, compiled=True)
    assert any("torch.compile failed" in note for note in backend.info.notes)
    assert not backend.info.engine.endswith("compiled")
    assert Predictor(backend).encode(data.astronaut()[:200, :256]).input_size == (200, 256)


def test_weights_of_another_model_are_refused_by_name(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"model type vit_b; missing|model type vit_b: missing"):
        load_pytorch_sam(checkpoint, model_type="vit_b", use_gpu=False)


def test_errors_say_what_is_wrong(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_pytorch_sam(tmp_path / "none.pth", model_type="tiny")
    with pytest.raises(ValueError, match="unknown model type 'vit_x'"):
        load_pytorch_sam(checkpoint, model_type="vit_x")
    with pytest.raises(ValueError, match=r"unknown precision 'int3'; options are auto, fp32, bf16, fp16"):
        load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=False, precision="int3")


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device(use_gpu=False) == (CPU, ())
    # As on a machine without a GPU, wherever the test runs.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    device, (note,) = choose_device(use_gpu=True)
    assert device == CPU
    assert "a GPU was asked for" in note
    assert "runs on the CPU" in note


def test_a_device_that_fails_falls_back_with_its_reason(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No build of torch that a server uses has kernels for Vulkan: moving weights there fails as a broken driver does.
    monkeypatch.setattr(pytorch_sam_wrapper, "choose_device", lambda _: (torch.device("vulkan"), ()))
    backend = load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=True)
    assert backend.info.device == "cpu"
    assert "the model did not load on vulkan" in backend.info.notes[0]
    Predictor(backend).encode(data.chelsea())


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_that_the_processor_does_not_have_is_told(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr("pytorch_sam_wrapper.cpu_has_bf16", lambda: has_bf16)
    info = load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=False, precision="bf16").info
    assert info.precision == "bf16"
    assert ["fp32 is several times as fast" in note for note in info.notes] == ([] if has_bf16 else [True])


def test_auto_precision_is_exact_on_the_cpu_unless_speed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", CPU, fastest=False) == "fp32"
    monkeypatch.setattr(pytorch_sam_wrapper, "cpu_has_bf16", lambda: True)
    assert choose_precision("auto", CPU, fastest=True) == "bf16"
    monkeypatch.setattr(pytorch_sam_wrapper, "cpu_has_bf16", lambda: False)
    assert choose_precision("auto", CPU, fastest=True) == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_masks(precision: str) -> None:
    torch.manual_seed(0)
    weights = build_sam(VARIANTS["tiny"]).state_dict()

    def answer(name: str) -> np.ndarray:
        sam = build_sam(VARIANTS["tiny"])
        sam.load_state_dict(weights)
        predictor = Predictor(PyTorchSam(sam, CPU, name))
        return predictor.predict(predictor.encode(data.chelsea()), [make_prompt([[200, 150]])])[0].masks

    flipped = (answer(precision) != answer("fp32")).mean()
    assert flipped < HALF_PRECISION_FLIPS


def test_threads_share_one_model(checkpoint: Path) -> None:
    predictor = Predictor(load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=False))
    pictures = [data.chelsea(), data.coffee(), data.astronaut()]
    prompts = [make_prompt([[100 + 20 * index, 120]]) for index in range(4)]

    def masks(pixels: np.ndarray) -> np.ndarray:
        return np.stack([answer.masks for answer in predictor.predict(predictor.encode(pixels), prompts)])

    alone = [masks(pixels) for pixels in pictures]
    together: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        together[index] = masks(pictures[index % 3])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, found in together.items():
        np.testing.assert_array_equal(found, alone[index % 3])
    assert len(together) == 9


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_gives_the_masks_of_the_cpu(checkpoint: Path, precision: str) -> None:
    def answer(use_gpu: bool, name: str) -> np.ndarray:
        backend = load_pytorch_sam(checkpoint, model_type="tiny", use_gpu=use_gpu, precision=name)
        assert backend.info.device.startswith("cuda" if use_gpu else "cpu")
        predictor = Predictor(backend)
        return predictor.predict(predictor.encode(data.chelsea()), [make_prompt([[200, 150]])])[0].masks

    flipped = (answer(True, precision) != answer(False, "fp32")).mean()
    assert flipped < (1e-4 if precision == "fp32" else HALF_PRECISION_FLIPS)
