"""Write the files of a model so that others see all of them or none."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from sam_server.onnx.files import DATA_SUFFIX

LOCK_NAME = ".convert.lock"
STAGING_PREFIX = ".convert-"


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """A directory within `directory` to write into; it is gone afterwards, whatever happened.

    Conversions into one directory take turns, and what one that was killed left behind is removed.

    Args:
        directory: where the files shall be in the end; made if missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / LOCK_NAME):
        for left in directory.glob(f"{STAGING_PREFIX}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=directory) as name:
            yield Path(name)


def publish(files: Sequence[Path], directory: Path) -> list[Path]:
    """Move finished files into `directory`, in place of those that had their names.

    Args:
        files: NAME.onnx and NAME.onnx.data files in a directory of the same file system.
        directory: where they shall be.

    Returns:
        Their new paths.
    """
    for file in files:
        target = directory / file.name
        if file.suffix == ".onnx":
            # A graph must never meet the weights of another: between the two moves there is no graph.
            target.unlink(missing_ok=True)
            if file.with_name(file.name + DATA_SUFFIX) not in files:
                target.with_name(target.name + DATA_SUFFIX).unlink(missing_ok=True)
    # Weights first, then the graphs that refer to them.
    for file in sorted(files, key=lambda file: file.suffix == ".onnx"):
        with file.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(file, directory / file.name)
    return [directory / file.name for file in files]
