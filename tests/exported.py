"""ONNX files that several rooms test, exported once a run: an export takes half a minute of a core."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir
import pytest
from filelock import FileLock

from backend_loader import TINY_DIR
from convert_to_onnx import ExportOptions, export_checkpoint
from pytorch_sam_wrapper import PyTorchSam, load_pytorch_sam
from sam_server.checkpoints.download import sha256_of
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import ModelMetadata
from tests.onnx_backend.small_model import save_checkpoint


@dataclass(frozen=True)
class ExportedModel:
    """One set of weights in all its forms.

    Attributes:
        checkpoint: .safetensors file, with a config.json beside it.
        onnx_dir: the three ONNX files in fp32.
        sha256: of the checkpoint.
    """

    checkpoint: Path
    onnx_dir: Path
    sha256: str

    def pytorch(self) -> PyTorchSam:
        return load_pytorch_sam(self.checkpoint, use_gpu=False, precision="fp32")


def exported_tiny(factory: pytest.TempPathFactory) -> ExportedModel:
    """The model that ships, freshly exported."""
    return _exported(factory, TINY_DIR / "sam_tiny.safetensors", VARIANTS["tiny"])


def exported_small(factory: pytest.TempPathFactory, variant: SamVariant) -> ExportedModel:
    """Random weights of a variant."""
    checkpoint = _of_this_run(factory) / f"model_{variant.name}" / f"sam_{variant.name}.safetensors"
    with FileLock(f"{checkpoint.parent}.lock"):
        if not checkpoint.exists():
            save_checkpoint(checkpoint, variant)
    return _exported(factory, checkpoint, variant)


def under_another_name(model: ExportedModel, variant: SamVariant, directory: Path) -> ExportedModel:
    """The same weights and graphs as those of a variant that has the same dimensions and another name."""
    checkpoint = Path(shutil.copy(model.checkpoint, directory / f"sam_{variant.name}.safetensors"))
    for path in model.onnx_dir.glob("*.onnx"):
        file = onnx_ir.load(path)
        metadata = replace(ModelMetadata.from_properties(file.metadata_props), spec=variant.spec)
        file.metadata_props.update(metadata.to_properties())
        onnx_ir.save(file, part_path(directory, variant.name, metadata.part))
    return ExportedModel(checkpoint, directory, model.sha256)


def _exported(factory: pytest.TempPathFactory, checkpoint: Path, variant: SamVariant) -> ExportedModel:
    directory = _of_this_run(factory) / f"onnx_{variant.name}"
    done = directory.with_suffix(".done")
    sha256 = sha256_of(checkpoint)
    with FileLock(f"{directory}.lock"):
        if not done.exists():  # a worker that failed half-way leaves none
            directory.mkdir(exist_ok=True)
            export_checkpoint(checkpoint, variant, directory, ExportOptions(), sha256)
            done.touch()
    return ExportedModel(checkpoint, directory, sha256)


def _of_this_run(factory: pytest.TempPathFactory) -> Path:
    """A directory that the workers of this run share, and no other run."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
