"""Which backend runs, and why: the four steps of `auto`, and loading what they lead to.

`python -m backend_loader` says what would run with the settings in force, and loads nothing.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from sam_config import ROOT, ConfigError, SamConfig, load_config, shown_path, usual_threads
from sam_server.backend import SamBackend
from sam_server.checkpoints.download import DownloadError, download_checkpoint, sha256_of
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.gpus import pytorch_may_have_gpu
from sam_server.network.variants import VARIANTS

logger = logging.getLogger(__name__)

TINY = "tiny"
TINY_DIR = ROOT / "model" / TINY
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt")

# Engines by the package that has to be installed for them; the one of a backend that is there is enough.
ENGINES = {"pytorch": ("torch",), "onnx": ("onnxruntime", "openvino")}
ENGINE_HINTS = {"pytorch": "torch is not installed", "onnx": "neither onnxruntime nor openvino is installed"}


class Step(IntEnum):
    """The steps of `auto`, in their order."""

    ONNX_FILES = 1
    CHECKPOINT = 2
    DOWNLOAD = 3
    TINY_MODEL = 4


STEP_NAMES = {
    Step.ONNX_FILES: "ONNX files that are there",
    Step.CHECKPOINT: "a checkpoint that is there",
    Step.DOWNLOAD: "a checkpoint to download",
    Step.TINY_MODEL: "the model that ships",
}


@dataclass(frozen=True)
class Candidate:
    """Something that could run.

    Attributes:
        step: where it stands in the order of `auto`.
        backend: "pytorch" or "onnx".
        model_type: such as "vit_h".
        files: what is loaded; the file that is still to be fetched for Step.DOWNLOAD.
        problem: why it cannot run, or None.
        ignored: files of it are there and stay unused because of the problem.
    """

    step: Step
    backend: str
    model_type: str
    files: tuple[Path, ...]
    problem: str | None = None
    ignored: bool = False


@dataclass(frozen=True)
class BackendChoice:
    """What runs, beside what was asked for.

    Attributes:
        backend: "pytorch" or "onnx".
        model_type: such as "vit_h".
        files: what is loaded.
        step: which step of `auto` led here.
        requested_backend: "pytorch", "onnx" or "auto".
        requested_model_type: such as "vit_h".
        fallback_reason: why something else runs than was asked for, or None.
    """

    backend: str
    model_type: str
    files: tuple[Path, ...]
    step: Step
    requested_backend: str
    requested_model_type: str
    fallback_reason: str | None = None


def installed_backends() -> frozenset[str]:
    """The backends that have an engine in this environment; imports none of them."""
    return frozenset(
        backend for backend, packages in ENGINES.items() if any(importlib.util.find_spec(name) for name in packages)
    )


def choose_backend(
    config: SamConfig, installed: frozenset[str] | None = None, tiny_dir: Path = TINY_DIR
) -> BackendChoice:
    """Say what would run, from the files that are there; loads and fetches nothing.

    Args:
        config: the settings.
        installed: backends that have an engine; `installed_backends()` if None.
        tiny_dir: directory of the model that ships with the project.

    Raises:
        ConfigError: nothing can run, or strict settings rule it out.
    """
    problems: list[str] = []
    ignored = False
    for candidate in candidates(config, installed, tiny_dir):
        if candidate.problem is None:
            return _decide(config, candidate, problems, ignored)
        problems.append(candidate.problem)
        ignored = ignored or candidate.ignored
    raise _nothing_runs(problems)


def load_backend(
    config: SamConfig, installed: frozenset[str] | None = None, tiny_dir: Path = TINY_DIR
) -> tuple[SamBackend, BackendChoice]:
    """Load the first candidate that runs; fetches a checkpoint where that is its turn.

    Args:
        config, installed, tiny_dir: as in `choose_backend`.

    Returns:
        The loaded backend, and what it is beside what was asked for.

    Raises:
        ConfigError: nothing can run, or it is not what was asked for and the settings are strict.
    """
    problems: list[str] = []
    ignored = False
    for candidate in candidates(config, installed, tiny_dir):
        if candidate.problem is not None:
            problems.append(candidate.problem)
            ignored = ignored or candidate.ignored
            continue
        # Asked before anything is loaded or fetched, so that a refusal comes at once.
        choice = _decide(config, candidate, problems, ignored)
        try:
            backend = _load(config, candidate)
        except Exception as error:  # engines raise classes of their own; whatever it is, it is the reason to go on
            logger.debug("%s did not load", candidate, exc_info=error)
            problems.append(_failure(candidate, error))
            ignored = True
            continue
        if config.checkpoint is not None:  # the file says which model it is
            model_type = backend.spec.model_type
            choice = replace(choice, model_type=model_type, requested_model_type=model_type)
        _check_as_asked(config, backend)
        _warn(config, choice)
        return backend, choice
    raise _nothing_runs(problems)


def candidates(
    config: SamConfig, installed: frozenset[str] | None = None, tiny_dir: Path = TINY_DIR
) -> Iterator[Candidate]:
    """What could run, the preferred first, each with the problem that keeps it from running.

    Args:
        config, installed, tiny_dir: as in `choose_backend`.
    """
    engines = installed_backends() if installed is None else installed
    for candidate in _by_files(config, tiny_dir, engines):
        problem = candidate.problem
        if problem is None and candidate.backend not in engines:
            problem = f"{_names(candidate.files)} cannot run: {ENGINE_HINTS[candidate.backend]}"
            yield replace(candidate, problem=problem, ignored=candidate.step != Step.DOWNLOAD)
        elif problem is None and candidate.backend == "pytorch" and config.precision == "int8":
            yield replace(candidate, problem="SAM_PRECISION=int8 is for ONNX only")
        else:
            yield candidate


def _by_files(config: SamConfig, tiny_dir: Path, engines: frozenset[str]) -> Iterator[Candidate]:
    """The candidates by the files alone."""
    if config.checkpoint is not None:
        yield Candidate(Step.CHECKPOINT, "pytorch", config.model_type, (config.checkpoint,))
        return
    prefer_pytorch = config.backend == "pytorch"
    if config.model_type != TINY:
        exported = [_exported(config, config.model_type, Step.ONNX_FILES, config.onnx_dir)]
        checkpoints = _checkpoints(config)
        yield from [*checkpoints, *exported] if prefer_pytorch else [*exported, *checkpoints]
    yield from _tiny(config, tiny_dir, engines)


def _tiny(config: SamConfig, tiny_dir: Path, engines: frozenset[str]) -> list[Candidate]:
    """The model that ships: ONNX files of it that the user made, its checkpoint, and the ONNX files that ship."""
    step = Step.ONNX_FILES if config.model_type == TINY else Step.TINY_MODEL
    made = _exported(config, TINY, step, config.onnx_dir)
    shipped = _exported(config, TINY, Step.TINY_MODEL, tiny_dir)
    checkpoint = _shipped(tiny_dir)
    if config.backend == "pytorch":
        order = [checkpoint, made, shipped]
    elif config.backend == "onnx" or _shipped_onnx_is_better(config, engines):
        order = [made, shipped, checkpoint]
    else:
        order = [made, checkpoint, shipped]
    # That there are no ONNX files of it is a reason for what runs only where they were asked for.
    asked = config.model_type == TINY and config.backend == "onnx"
    return [candidate for candidate in order if candidate.files or (asked and candidate is shipped)]


def _shipped_onnx_is_better(config: SamConfig, engines: frozenset[str]) -> bool:
    """Of the two forms in which the model ships, ONNX starts and runs faster on a processor (docs/performance.md)."""
    if "pytorch" not in engines:
        return True
    half_precision = config.precision in ("bf16", "fp16")  # not every engine and processor has it, but PyTorch does
    for_pytorch = half_precision or config.torch_compile or (config.use_gpu and pytorch_may_have_gpu(os.environ))
    return "onnx" in engines and not for_pytorch


def _exported(config: SamConfig, model_type: str, step: Step, directory: Path) -> Candidate:
    """Encoder and decoder as ONNX files of a directory."""
    files = tuple(directory / f"sam_{model_type}_{part}.onnx" for part in ("encoder", "decoder"))
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return Candidate(step, "onnx", model_type, files)
    if len(missing) < len(files):
        return Candidate(step, "onnx", model_type, files, f"{shown_path(missing[0])} is missing", ignored=True)
    return Candidate(step, "onnx", model_type, (), f"no ONNX files of {model_type} in {shown_path(config.onnx_dir)}")


def _checkpoints(config: SamConfig) -> list[Candidate]:
    """The checkpoint that is there, and the one that can be fetched."""
    model_type = config.model_type
    official = CHECKPOINTS.get(model_type)
    names = ([official.name] if official else []) + [f"sam_{model_type}{suffix}" for suffix in CHECKPOINT_SUFFIXES]
    there = [path for name in names if (path := config.model_dir / name).is_file()]
    found = [Candidate(Step.CHECKPOINT, "pytorch", model_type, (path,)) for path in there]
    if not there:
        problem = f"no checkpoint {names[0]} in {shown_path(config.model_dir)}"
        found.append(Candidate(Step.CHECKPOINT, "pytorch", model_type, (), problem))
    if official is not None:
        target = config.model_dir / official.name
        if target not in there:  # what is there under this name is never overwritten
            problem_offline = "SAM_OFFLINE=true, so it is not downloaded" if config.offline else None
            found.append(Candidate(Step.DOWNLOAD, "pytorch", model_type, (target,), problem_offline))
    return found


def _shipped(tiny_dir: Path) -> Candidate:
    path = tiny_dir / f"sam_{TINY}.safetensors"
    problem = None if path.is_file() else f"{shown_path(path)} is missing"
    return Candidate(Step.TINY_MODEL, "pytorch", TINY, (path,), problem)


def _decide(config: SamConfig, candidate: Candidate, problems: Sequence[str], ignored: bool) -> BackendChoice:
    """The candidate as a choice, with the reason if it is not what was asked for.

    Raises:
        ConfigError: it is not, and the settings are strict.
    """
    other_model = config.checkpoint is None and candidate.model_type != config.model_type
    other_backend = config.backend not in ("auto", candidate.backend)
    reason = "; ".join(problems) if other_model or other_backend or ignored else None
    if reason is not None and config.strict:
        raise ConfigError(
            f"SAM_STRICT=true: {config.model_type} on {config.backend} was asked for, "
            f"and only {candidate.model_type} on {candidate.backend} could run: {reason}"
        )
    return BackendChoice(
        backend=candidate.backend,
        model_type=candidate.model_type,
        files=candidate.files,
        step=candidate.step,
        requested_backend=config.backend,
        requested_model_type=config.model_type,
        fallback_reason=reason,
    )


def _load(config: SamConfig, candidate: Candidate) -> SamBackend:
    if candidate.backend == "onnx":
        return _load_onnx(config, candidate)
    if candidate.step == Step.DOWNLOAD:
        file = CHECKPOINTS[candidate.model_type]
        logger.warning("%s is not here; fetching it (%.0f MB)", candidate.files[0], file.size / 1e6)
        download_checkpoint(file, config.model_dir, mirror=config.checkpoint_mirror)
    return _load_pytorch(config, candidate)


def _load_onnx(config: SamConfig, candidate: Candidate) -> SamBackend:
    from onnx_sam_wrapper import load_onnx_sam

    return load_onnx_sam(
        candidate.files[0].parent,
        candidate.model_type,
        use_gpu=config.use_gpu,
        precision=config.precision,
        fastest=config.performance_mode,
        threads=config.intra_op_threads or usual_threads(),
    )


def _load_pytorch(config: SamConfig, candidate: Candidate) -> SamBackend:
    from pytorch_sam_wrapper import load_pytorch_sam

    path = candidate.files[0]
    sha256 = sha256_of(path)
    official = CHECKPOINTS.get(candidate.model_type)
    if official is not None and path.name == official.name and sha256 != official.sha256:
        raise ConfigError(
            f"{path} is not the official file of that name (its sha256 is {sha256}); "
            f"delete it to fetch that one, or rename it to sam_{candidate.model_type}.pth to use it as it is"
        )
    # A config.json beside the file has a say where the file was named or ships with one.
    in_model_dir = config.checkpoint is None and candidate.step != Step.TINY_MODEL
    return load_pytorch_sam(
        path,
        VARIANTS[candidate.model_type] if in_model_dir else None,
        model_type=candidate.model_type,
        use_gpu=config.use_gpu,
        precision=config.precision,
        fastest=config.performance_mode,
        compiled=config.torch_compile,
        sha256=sha256,
        threads=config.intra_op_threads or usual_threads(),
    )


def _check_as_asked(config: SamConfig, backend: SamBackend) -> None:
    """Refuse what loaded on another device, or in another precision, than was asked for, where nothing else will do."""
    if not config.strict:
        return
    info = backend.info
    if config.use_gpu and info.device.startswith("cpu"):
        notes = "; ".join(info.notes) or "no GPU was found"
        raise ConfigError(f"SAM_STRICT=true: SAM_USE_GPU=true, but the model runs on the CPU: {notes}")
    if config.precision not in ("auto", info.precision):
        notes = "; ".join(info.notes)
        raise ConfigError(
            f"SAM_STRICT=true: SAM_PRECISION={config.precision}, but the model runs in {info.precision}: {notes}"
        )


def _warn(config: SamConfig, choice: BackendChoice) -> None:
    if choice.fallback_reason is None:
        return
    line = "*" * 100
    wish = f"{config.model_type} on {config.backend} was asked for"
    logger.warning(
        "%s\nFALLBACK: %s, but %s on %s runs.\nWhy: %s.\n%s",
        *(line, wish, choice.model_type, choice.backend, choice.fallback_reason, line),
    )


def _failure(candidate: Candidate, error: Exception) -> str:
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not isinstance(error, DownloadError | ConfigError):
        message = f"{_names(candidate.files)} did not load: {message}"
    # The reason is told over HTTP, where nobody needs to know the directories of this machine.
    return message.replace(f"{ROOT}/", "")


def _nothing_runs(problems: Sequence[str]) -> ConfigError:
    return ConfigError("no model can run: " + "; ".join(problems))


def _names(files: Sequence[Path]) -> str:
    return " and ".join(file.name for file in files)


def describe(choice: BackendChoice) -> str:
    """What would run and why, one fact a line."""
    lines = [
        f"asked for:  {choice.requested_model_type} on {choice.requested_backend}",
        f"would run:  {choice.model_type} on {choice.backend} (step {choice.step} of auto: {STEP_NAMES[choice.step]})",
        *(f"file:       {shown_path(path)}" for path in choice.files),
    ]
    if choice.fallback_reason is not None:
        lines.append(f"because:    {choice.fallback_reason}")
    return "\n".join(lines)


def main() -> None:
    """Print what would run."""
    try:
        print(describe(choose_backend(load_config())))
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
