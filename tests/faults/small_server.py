"""gunicorn with a vit_b that is small enough for a test, and a table that calls a given file its official checkpoint.

`python -m tests.faults.small_server CHECKPOINT ARGUMENTS OF GUNICORN...`
"""

import sys
from dataclasses import replace
from pathlib import Path

from gunicorn.app.wsgiapp import run

from sam_server.checkpoints.download import sha256_of
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.variants import VARIANTS
from tests.onnx_backend.small_model import SMALL


def main() -> None:
    """Change the tables, then do what `python -m gunicorn` does; workers are forks and have the changed tables."""
    checkpoint = Path(sys.argv.pop(1))
    VARIANTS["vit_b"] = replace(SMALL, name="vit_b")
    row = replace(CHECKPOINTS["vit_b"], size=checkpoint.stat().st_size, sha256=sha256_of(checkpoint))
    CHECKPOINTS["vit_b"] = row
    run()


if __name__ == "__main__":
    main()
