"""Weights of matrix products as 8-bit integers."""

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from sam_server.onnx.files import DATA_SUFFIX
from sam_server.onnx.metadata import ModelMetadata


def quantise(source: Path, target: Path, metadata: ModelMetadata) -> list[Path]:
    """Write a float32 model again with weights of 8 bits; activations are quantised while it runs.

    Args:
        source: .onnx file in float32.
        target: .onnx file to write, in another directory. Its weights go to a file beside it if those of
            the source do.
        metadata: what shall stand in it.

    Returns:
        The files written.
    """
    data = source.with_name(source.name + DATA_SUFFIX)
    external = data.is_file()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that this graph does not need
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],  # all but the few convolutions, whose share of the weights is small
            per_channel=True,
            # Products of unsigned and signed bytes, which are added up in pairs, overflow on processors without VNNI:
            # embeddings were several times as far off there.
            weight_type=QuantType.QUInt8,
            use_external_data_format=external,
        )
    finally:
        root.setLevel(level)
    model = onnx.load(target, load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, target)
    written = target.with_name(target.name + DATA_SUFFIX)
    return [target, written] if written.is_file() else [target]
