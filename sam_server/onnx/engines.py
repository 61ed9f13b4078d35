"""What computes an ONNX file: ONNX Runtime with its execution providers, or OpenVINO on the CPU."""

import importlib.util
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from sam_server.allocator import release_mapped
from sam_server.onnx.files import DATA_SUFFIX
from sam_server.onnx.metadata import OnnxFileError, command
from sam_server.onnx.split import split

RUNTIME_VERSION: str = onnxruntime.__version__

# Name by which OpenVINO is asked for and reported beside ONNX Runtime's providers: it reads the files itself.
OPENVINO = "OpenVINO"
CPU_PROVIDER = "CPUExecutionProvider"
# Providers that keep arrays in the memory of an NVIDIA GPU.
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")

# ONNX Runtime's severity from which on it logs: 3 is errors. What matters of its warnings is read from the session.
LOG_SEVERITY = 3

# Most calls that OpenVINO computes side by side, each with memory of its own.
MOST_SIDE_BY_SIDE = 8

OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}


class Engine(Protocol):
    """One loaded file. Threads may share it."""

    @property
    def name(self) -> str:
        """What computes, with version."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that are bound."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:0"."""
        ...

    @property
    def bf16(self) -> bool:
        """Whether it multiplies matrices in bf16."""
        ...

    @property
    def side_by_side(self) -> int:
        """How many calls `run_all` computes at the same time."""
        ...

    def begin(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Compute what depends on these inputs alone, if the engine was made for that; to be given to `run` with all
        other inputs, as often as one likes."""
        ...

    def run(self, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        """Every output, in order, as arrays of their own; inputs may come from `run_on_device` and `begin`."""
        ...

    def run_all(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[list[npt.NDArray[Any]]]:
        """What `run` gives for each of the inputs, in their order; computed side by side where that is faster."""
        ...

    def run_on_device(self, inputs: Mapping[str, Any]) -> Any:
        """The first output, left where the engine computes, to be an input of another engine of the same kind."""
        ...


class OrtEngine:
    """A file in ONNX Runtime.

    Args:
        path: .onnx file.
        providers: execution providers by preference; the CPU's comes last of itself.
        threads: processor threads of one call; ONNX Runtime's own choice if None.

    Raises:
        OnnxFileError: ONNX Runtime cannot read the file.
    """

    bf16 = False
    side_by_side = 1

    def __init__(self, path: Path, providers: Sequence[str], threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_SEVERITY
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted = [name for name in providers if name != CPU_PROVIDER] + [CPU_PROVIDER]
        if any(name in GPU_PROVIDERS for name in wanted):
            # Finds CUDA and cuDNN where they were installed as Python packages.
            onnxruntime.preload_dlls()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # its classes have no base of their own
            raise _unreadable(path, error) from error
        self.providers = tuple(self._session.get_providers())
        self.device = "cuda:0" if any(name in GPU_PROVIDERS for name in self.providers) else "cpu"
        self.name = f"onnxruntime {RUNTIME_VERSION}"
        self._outputs = [output.name for output in self._session.get_outputs()]

    def begin(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Engine.begin`: nothing is computed, a session cannot be cut."""
        return inputs

    def run(self, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        """See `Engine.run`."""
        if self.device == "cpu":
            outputs: list[npt.NDArray[Any]] = self._session.run(None, dict(inputs))
            return outputs
        return [value.numpy() for value in self._run_bound(inputs, "cpu")]

    def run_all(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[list[npt.NDArray[Any]]]:
        """See `Engine.run_all`: one after the other."""
        return map(self.run, calls)

    def run_on_device(self, inputs: Mapping[str, Any]) -> Any:
        """See `Engine.run_on_device`: an OrtValue on a GPU, else an array."""
        return self.run(inputs)[0] if self.device == "cpu" else self._run_bound(inputs, "cuda")[0]

    def _run_bound(self, inputs: Mapping[str, Any], device: str) -> list[Any]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding)
        values: list[Any] = binding.get_outputs()
        return values


class OpenVinoEngine:
    """A file in OpenVINO, on the CPU.

    Args:
        path: .onnx file.
        precision: in which matrices are multiplied: "bf16", where the processor can (see `Engine.bf16`), else float32.
        threads: processor threads of one call; OpenVINO's own choice if None.
        batch: first dimension of every input of a file that leaves it open. Where all sizes are known, OpenVINO plans
            its memory: a ViT-B encoder takes 0.6 GB less, and a little less time.
        begins_with: inputs that `begin` takes, all of them; what depends on them alone becomes a part of its own.
        side_by_side: let `run_all` give each thread a call of its own. The small products of a decoder leave threads
            that share one waiting for each other: 64 points of a ViT-B in fp32 take a sixth less on two.

    Raises:
        OnnxFileError: OpenVINO cannot read the file.
    """

    def __init__(
        self,
        path: Path,
        precision: str,
        threads: int | None,
        batch: int | None = None,
        begins_with: Sequence[str] = (),
        side_by_side: bool = False,
    ) -> None:
        import openvino

        config: dict[str, Any] = {
            # Said even for float32: a processor with bf16 would take that of itself.
            "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Encoder and decoder, and other processes, share the processors.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path)
            if batch is not None:
                model.reshape({port: _with_first(port.get_partial_shape(), batch) for port in model.inputs})
            self._beginning: _OpenVinoPart | None = None
            self._cuts: tuple[str, ...] = ()
            if begins_with:
                parts = split(model, begins_with)
                self._beginning, self._cuts = _OpenVinoPart(core, parts.first, config), parts.cuts
                model = parts.second
            self._main = _OpenVinoPart(core, model, config)
            self.bf16 = self._main.bf16
            self.side_by_side = min(threads or 1, MOST_SIDE_BY_SIDE) if side_by_side else 1
            self._calls = _OpenVinoCalls(core, model, config, self.side_by_side) if self.side_by_side > 1 else None
            release_mapped(path.with_name(path.name + DATA_SUFFIX))
        except Exception as error:  # RuntimeError, and what pybind makes of others
            raise _unreadable(path, error) from error
        self.providers = (OPENVINO,)
        self.device = "cpu"
        self.name = f"openvino {openvino.__version__.split('-')[0]}"

    def begin(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Engine.begin`."""
        if self._beginning is None:
            return inputs
        return dict(zip(self._cuts, self._beginning.run(inputs), strict=True))

    def run(self, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        """See `Engine.run`."""
        return self._main.run(inputs)

    def run_all(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[list[npt.NDArray[Any]]]:
        """See `Engine.run_all`."""
        return map(self.run, calls) if self._calls is None or len(calls) < 2 else self._calls.run(calls)

    def run_on_device(self, inputs: Mapping[str, Any]) -> Any:
        """See `Engine.run_on_device`."""
        return self.run(inputs)[0]


class _OpenVinoPart:
    """A compiled model. Threads may share it."""

    def __init__(self, core: Any, model: Any, config: Mapping[str, Any]) -> None:
        self._model = core.compile_model(model, "CPU", config)
        # OpenVINO takes float32 without a word where the processor has no bf16.
        self.bf16 = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
        self._request = self._model.create_infer_request()
        # A request holds the memory of one computation, so threads take turns; together they would not be faster.
        self._turn = threading.Lock()

    def run(self, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        """Every output, in order."""
        with self._turn:
            return _infer(self._request, inputs)


class _OpenVinoCalls:
    """A model whose calls are computed side by side, a share of the threads each. Threads may share it."""

    def __init__(self, core: Any, model: Any, config: Mapping[str, Any], count: int) -> None:
        self._core = core
        self._source = model
        self._config = {**config, "NUM_STREAMS": count}
        self._count = count
        self._model: Any = None
        self._compiling = threading.Lock()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[list[npt.NDArray[Any]]]:
        """Every output of each call, in order."""
        self._compile()
        pool = ThreadPoolExecutor(self._count, "openvino")
        try:
            yield from pool.map(self._run_one, calls)
        finally:  # a caller may have had enough
            pool.shutdown(cancel_futures=True)

    def _run_one(self, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        request = self._requests.get()  # waits for those of other callers
        try:
            return _infer(request, inputs)
        finally:
            self._requests.put(request)

    def _compile(self) -> None:
        """At the first call: a server that is only clicked at needs none of it, and is ready earlier."""
        with self._compiling:
            if self._model is None:
                self._model = self._core.compile_model(self._source, "CPU", self._config)
                self._source = None
                for _ in range(self._count):
                    self._requests.put(self._model.create_infer_request())


def _infer(request: Any, inputs: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
    """Every output, as arrays of their own: those of a request are written again by its next call."""
    results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
    return [np.array(results[index]) for index in range(len(results))]


def available_providers() -> tuple[str, ...]:
    """What `load_onnx_sam` takes as providers in this environment."""
    native = (OPENVINO,) if importlib.util.find_spec("openvino") else ()
    return (*native, *onnxruntime.get_available_providers())


def openvino_has_bf16() -> bool:
    """Whether OpenVINO is here and the processor multiplies bf16 matrices in hardware."""
    if OPENVINO not in available_providers():
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _with_first(shape: Any, first: int) -> Any:
    shape[0] = first
    return shape


def _unreadable(path: Path, error: Exception) -> OnnxFileError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return OnnxFileError(f"{path} cannot be loaded ({reason}); write it again with {command(path)}")
