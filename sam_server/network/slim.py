"""Make exported graphs smaller, without a change to what they compute."""

import math

import numpy as np
import onnx_ir

from sam_server.network.prompt_encoder import PromptEncoder

# Weights smaller than this are not worth a node of their own.
PACKED_BYTES = 4096


def forget_source(model: onnx_ir.Model) -> None:
    """Drop stack traces, which name paths of the machine that exported, and the names of intermediate shapes."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    for function in model.functions.values():
        function.metadata_props.clear()
        for node in function:
            node.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def pack(model: onnx_ir.Model) -> None:
    """Store float32 weights as float16 where that changes none of them, as a checkpoint of float16 weights has it.

    Runtimes widen them when they load the file, so nothing is computed otherwise.
    """
    first = model.graph[0]
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or tensor.nbytes < PACKED_BYTES:
            continue
        wide = tensor.numpy()
        with np.errstate(over="ignore"):
            half = wide.astype(np.float16)
        if not np.array_equal(half, wide):
            continue
        packed = onnx_ir.val(f"{name}.half", const_value=onnx_ir.tensor(half, name=f"{name}.half"))
        widened = onnx_ir.node("Cast", [packed], {"to": onnx_ir.DataType.FLOAT.value}, name=f"{name}.widen")
        model.graph.insert_before(first, widened)
        onnx_ir.convenience.replace_all_uses_with(value, widened.outputs[0])
        del model.graph.initializers[name]
        model.graph.register_initializer(packed)
        widened.outputs[0].name = name
        widened.outputs[0].dtype, widened.outputs[0].shape = tensor.dtype, onnx_ir.Shape(wide.shape)


def derive_positions(model: onnx_ir.Model, prompt_encoder: PromptEncoder) -> None:
    """Let runtimes compute the positional encoding of the cells when they load the file, in place of storing it.

    It is sines and cosines of products of the cells' places with a small matrix: 2.4 MB of model/tiny's decoder, whose
    weights take one. Where the graph does not hold it, nothing changes.
    """
    encoded = prompt_encoder.dense_pe()
    stored = encoded.flatten(2).transpose(1, 2).numpy()  # (1, I, C)
    side = encoded.shape[-1]
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    places = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(1, -1, 2) * 2 - 1  # (1, I, 2) x, y
    matrix = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.float().numpy()
    first = model.graph[0]
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.shape != stored.shape:
            continue
        held = tensor.numpy()
        if not np.array_equal(held, stored.astype(held.dtype)):
            continue
        small = {"places": places, "matrix": matrix, "turn": np.array(2 * math.pi, np.float32)}
        inputs = {
            key: onnx_ir.val(f"{name}.{key}", const_value=onnx_ir.tensor(array, name=f"{name}.{key}"))
            for key, array in small.items()
        }
        products = onnx_ir.node("MatMul", [inputs["places"], inputs["matrix"]], name=f"{name}.products")
        phases = onnx_ir.node("Mul", [products.outputs[0], inputs["turn"]], name=f"{name}.phases")
        halves = [onnx_ir.node(kind, phases.outputs, name=f"{name}.{kind.lower()}") for kind in ("Sin", "Cos")]
        joined = onnx_ir.node("Concat", [node.outputs[0] for node in halves], {"axis": -1}, name=f"{name}.join")
        nodes = [products, phases, *halves, joined]
        if tensor.dtype != onnx_ir.DataType.FLOAT:
            nodes.append(onnx_ir.node("Cast", joined.outputs, {"to": tensor.dtype.value}, name=f"{name}.narrow"))
        model.graph.insert_before(first, nodes)
        last = nodes[-1]
        onnx_ir.convenience.replace_all_uses_with(value, last.outputs[0])
        del model.graph.initializers[name]
        for array in inputs.values():
            model.graph.register_initializer(array)
        last.outputs[0].name = name
        last.outputs[0].dtype, last.outputs[0].shape = tensor.dtype, onnx_ir.Shape(stored.shape)
