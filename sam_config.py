"""Every setting of the server: one table, read once from the environment and .env.

`python -m sam_config` prints the settings in force; `python -m sam_config --write-docs` brings
docs/settings.md and .env.example in line with the table.
"""

import argparse
import dataclasses
import difflib
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dotenv import dotenv_values

from sam_server.logs import FORMATS as LOG_FORMATS
from sam_server.network.variants import VARIANTS
from sam_server.processors import cpu_quota
from sam_server.setting_kinds import (
    FLAG,
    REDIS_URL,
    URL,
    Kind,
    byte_count,
    choice,
    integer,
    seconds,
    text_of,
    words,
    words_of,
)
from sam_server.web.keys import HASHED, hash_key, hashed

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent
ENV_FILE = ROOT / ".env"
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
ENV_EXAMPLE = ROOT / ".env.example"
PREFIX = "SAM_"

# Random bytes of an API key that this makes.
KEY_BYTES = 32

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be followed; one line that names the variable, its value and the options."""


def _path(text: str) -> Path:
    return ROOT / Path(text).expanduser()


def shown_path(path: Path | None) -> str:
    """A path as a person would write it in a setting: relative where it lies in the repository."""
    if path is None:
        return ""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _keys(text: str) -> tuple[str, ...]:
    return tuple(hashed(word) for word in words(text))


def _limits(text: str) -> str:
    # Loaded where it is used: it takes longer than all the rest of this file.
    from limits import parse_many

    parse_many(text)
    return text


DIRECTORY: Kind[Path] = Kind(_path, "directory", shown_path)
FILE: Kind[Path | None] = Kind(_path, "file", shown_path)


def _setting(kind: Kind[T], default: T, help: str, *, secret: bool = False) -> T:
    """A field of SamConfig that is also a row of the table."""
    # dataclasses.field gives a Field where its annotation promises the default: the dataclass takes it apart again.
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, "secret": secret})


@dataclass(frozen=True)
class SamConfig:
    """Every setting: the field NAME is read from the variable SAM_NAME. Relative paths start at the repository."""

    # What runs.
    backend: str = _setting(choice("pytorch", "onnx", "auto"), "auto", "Which backend runs; auto takes what is there.")
    model_type: str = _setting(choice(*VARIANTS), "vit_h", "Which model runs; tiny ships with the project.")
    use_gpu: bool = _setting(FLAG, True, "Use a GPU where one works.")
    performance_mode: bool = _setting(
        FLAG, False, "Coarser automatic masks and the fastest precision the hardware has."
    )
    precision: str = _setting(
        choice("auto", "fp32", "bf16", "fp16", "int8"), "auto", "Number format of the network; int8 is for ONNX only."
    )
    torch_compile: bool = _setting(
        FLAG, False, "Let torch.compile make kernels for PyTorch's image encoder, for half a minute at the start."
    )
    strict: bool = _setting(
        FLAG, False, "Refuse to start where another model, backend, device or precision would run than asked for."
    )
    # Where the files are.
    model_dir: Path = _setting(DIRECTORY, ROOT / "model", "Where checkpoints are kept.")
    onnx_dir: Path = _setting(DIRECTORY, ROOT / "model" / "onnx", "Where exported ONNX models are kept.")
    checkpoint: Path | None = _setting(
        FILE, None, "Run this PyTorch checkpoint, of SAM_MODEL_TYPE or with a config.json beside it."
    )
    offline: bool = _setting(FLAG, False, "Never download a checkpoint.")
    checkpoint_mirror: str | None = _setting(URL, None, "Server that has the checkpoints under their own names.")
    # HTTP.
    host: str = _setting(text_of("address"), "127.0.0.1", "Address to listen on; 0.0.0.0 is every one of this machine.")
    port: int = _setting(integer(1, 65535), 5000, "Port to listen on.")
    threads: int = _setting(integer(1, 1024), 16, "Requests that are handled at once.")
    api_keys: tuple[str, ...] = _setting(
        Kind(_keys, f"keys or {HASHED}HEX, separated by commas", ",".join),
        (),
        "One of these must come with every request; none is asked for if empty.",
        secret=True,
    )
    rate_limit: str = _setting(
        Kind(_limits, "limits such as 10/second;600/minute"),
        "",
        "Requests of one key, or of one address where there are no keys; no limit if empty.",
    )
    trusted_proxies: int = _setting(
        integer(0, 10), 0, "Proxies in front of the server whose X-Forwarded-For tells the client's address."
    )
    cors_origins: tuple[str, ...] = _setting(
        words_of("origins, separated by commas"), (), "Origins whose web pages may call the server; * is all of them."
    )
    metrics: str = _setting(
        choice("key", "open", "off"), "key", "Who may read /metrics: whoever has an API key, everybody, or nobody."
    )
    log_format: str = _setting(choice(*LOG_FORMATS), "text", "Log lines for people or for machines.")
    log_level: str = _setting(choice("debug", "info", "warning", "error"), "info", "Least level that is logged.")
    # Several servers that work together.
    redis_url: str | None = _setting(
        REDIS_URL,
        None,
        "Redis where servers share sessions, jobs and rate limits; each has its own if empty.",
        secret=True,
    )
    redis_prefix: str = _setting(
        text_of("text"), "sam:", "Start of every key in Redis, so that several installations share one."
    )
    jobs: str = _setting(
        choice("auto", "process", "celery"),
        "auto",
        "Where long jobs run: in the server, on Celery workers, or on workers while one is alive.",
    )
    # Bounds.
    cache_bytes: int = _setting(
        byte_count(1 << 20), 1 << 30, "Memory that sessions take together: pictures, embeddings, masks."
    )
    session_ttl: float = _setting(seconds(1), 3600.0, "Time until a session that nobody uses is forgotten.")
    max_upload_bytes: int = _setting(byte_count(1 << 10), 64 << 20, "Size of one picture's file.")
    max_pixels: int = _setting(integer(1, 1_000_000_000), 50_000_000, "Width times height of one picture.")
    max_prompts: int = _setting(integer(1, 100_000), 256, "Prompts in one call.")
    max_points: int = _setting(integer(1, 100_000), 1000, "Points in one prompt.")
    concurrency: int = _setting(integer(1, 64), 1, "Computations of the model at once.")
    queue_length: int = _setting(
        integer(0, 10_000), 64, "Computations that may wait for the model; the next one gets 503."
    )
    queue_timeout: float = _setting(seconds(0.1), 60.0, "Time that one may wait before it gets 503.")
    job_workers: int = _setting(
        integer(1, 64), 2, "Jobs that run at once in this process; each computation still waits for its turn."
    )
    job_queue_length: int = _setting(integer(0, 10_000), 16, "Jobs that may wait; the next one gets 503.")
    jobs_kept: int = _setting(integer(1, 1_000_000), 1000, "Ended jobs whose outcome is kept.")
    event_streams: int = _setting(
        integer(1, 1024), 8, "Clients that may follow a job at once; each takes one of SAM_THREADS."
    )
    request_deadline: float = _setting(
        seconds(0.1),
        120.0,
        "Time after which no computation of a request is begun any more; it gets 503. Jobs have no deadline.",
    )
    encode_batch: int = _setting(
        integer(0, 64),
        0,
        "Pictures that are encoded together where they wait at the same time; 0 is 4 for PyTorch on CUDA, else 1.",
    )
    stuck_after: float = _setting(
        seconds(1), 600.0, "Time after which a computation that does not end makes /health fail."
    )
    graceful_timeout: int = _setting(
        integer(1, 86_400), 30, "Seconds that running requests get to finish once the server is asked to stop."
    )
    intra_op_threads: int = _setting(
        integer(0, 1024),
        0,
        "Processor threads of one computation; 0 is OMP_NUM_THREADS where that is set, else the CPU quota.",
    )


def usual_threads() -> int:
    """Threads of one computation where no setting says: OMP_NUM_THREADS, as for all that uses OpenMP, else `cpu_quota`.

    Of a list, which is for computations within computations, the first number counts.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else cpu_quota()


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: field of SamConfig.
        kind: what may be written.
        default: value where nothing is written.
        help: one line.
        secret: whether the value must not be shown.
    """

    name: str
    kind: Kind[Any]
    default: Any
    help: str
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    def parse(self, text: str) -> Any:
        """The value of `text`.

        Raises:
            ConfigError: it is none of the options.
        """
        try:
            return self.kind.parse(text)
        except ValueError:
            shown = "(secret)" if self.secret else repr(text)
            raise ConfigError(f"{self.variable}={shown} is not valid; options: {self.kind.options}") from None


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(item.name, item.metadata["kind"], item.default, item.metadata["help"], item.metadata["secret"])
    for item in dataclasses.fields(SamConfig)
)


def load_config(environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE) -> SamConfig:
    """Read every setting; the environment goes before .env, an empty value counts as none.

    Args:
        environ: the environment; that of this process if None.
        env_file: .env file to read as well, where it exists; none if None.

    Raises:
        ConfigError: a value is not valid, or two contradict each other.
    """
    values: dict[str, str] = {}
    if env_file is not None and env_file.is_file():
        values.update({name: value for name, value in dotenv_values(env_file).items() if value is not None})
    values.update(os.environ if environ is None else environ)
    _warn_of_unknown(values)
    given = {setting.name: text for setting in SETTINGS if (text := values.get(setting.variable, "").strip())}
    config = SamConfig(
        **{setting.name: setting.parse(given[setting.name]) for setting in SETTINGS if setting.name in given}
    )
    _check(config)
    return config


def _warn_of_unknown(values: Mapping[str, str]) -> None:
    known = [setting.variable for setting in SETTINGS]
    for name in sorted(values):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            hint = f"; did you mean {near[0]}?" if near else "; see docs/settings.md"
            logger.warning("%s is not a setting and has no effect%s", name, hint)


def _check(config: SamConfig) -> None:
    if config.checkpoint is not None and not config.checkpoint.is_file():
        raise ConfigError(f"SAM_CHECKPOINT={str(config.checkpoint)!r} is not valid; options: a file that exists")
    if config.checkpoint is not None and config.backend == "onnx":
        raise ConfigError("SAM_BACKEND='onnx' is not valid with SAM_CHECKPOINT; options: pytorch, auto")
    if config.jobs == "celery" and config.redis_url is None:
        raise ConfigError("SAM_JOBS='celery' is not valid without SAM_REDIS_URL; options: auto, process")
    if config.precision == "int8" and config.backend == "pytorch":
        raise ConfigError("SAM_PRECISION='int8' is not valid with SAM_BACKEND=pytorch; options: auto, fp32, bf16, fp16")


def show(config: SamConfig) -> str:
    """The settings in force, one `VARIABLE=value` a line; secrets are hidden."""
    lines = []
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        shown = "(hidden)" if setting.secret and value else setting.kind.show(value)
        lines.append(f"{setting.variable}={shown}")
    return "\n".join(lines)


def settings_page() -> str:
    """docs/settings.md, made from the table."""
    rows = "\n".join(
        f"| `{setting.variable}` | {setting.kind.options} | {_cell(setting)} | {setting.help} |" for setting in SETTINGS
    )
    return f"""# Settings

Made from the table in `sam_config.py` by `python -m sam_config --write-docs`; a test compares them.

Settings come from the environment and from a file `.env` in the repository (start from `.env.example`); the
environment goes first, and an empty value counts as none. Relative paths start at the repository. A bad value stops
the start with one line that names the variable, the value and the options; a `SAM_` variable that is no setting is
warned of.

`python -m sam_config` prints the settings in force.

| variable | options | default | what it does |
|---|---|---|---|
{rows}
"""


def _cell(setting: Setting) -> str:
    shown = setting.kind.show(setting.default)
    return f"`{shown}`" if shown else "none"


def env_example() -> str:
    """.env.example, made from the table: every setting with its default, commented out."""
    blocks = []
    for setting in SETTINGS:
        line = f"#{setting.variable}={setting.kind.show(setting.default)}"
        blocks.append(f"# {setting.help}\n# Options: {setting.kind.options}.\n{line}\n")
    return "# Copy to .env and take the # from the lines that you change. See docs/settings.md.\n\n" + "\n".join(blocks)


def main() -> None:
    """Print the settings in force, write the pages that are made from the table, or make an API key."""
    parser = argparse.ArgumentParser(prog="python -m sam_config", description="Print the settings in force.")
    parser.add_argument("--write-docs", action="store_true", help="write docs/settings.md and .env.example instead")
    parser.add_argument("--new-key", action="store_true", help="make an API key and its hash for SAM_API_KEYS instead")
    parser.add_argument("--hash-key", action="store_true", help="hash the API key on the standard input instead")
    wanted = parser.parse_args()
    if wanted.new_key:
        key = secrets.token_urlsafe(KEY_BYTES)
        print(f"key for the client: {key}\nentry of SAM_API_KEYS: {hash_key(key)}")
        return
    if wanted.hash_key:
        key = sys.stdin.readline().strip()
        if not key or "," in key:
            parser.exit(2, "give one API key on the standard input; it has no commas\n")
        print(hash_key(key))
        return
    if wanted.write_docs:
        SETTINGS_PAGE.write_text(settings_page())
        ENV_EXAMPLE.write_text(env_example())
        return
    try:
        print(show(load_config()))
    except ConfigError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
