"""Settings: what is read, what is refused, and the pages that are made from the table."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sam_config
from sam_config import ENV_EXAMPLE, ROOT, SETTINGS, SETTINGS_PAGE, ConfigError, SamConfig, load_config, usual_threads
from sam_server.processors import cpu_quota
from sam_server.web.keys import hash_key


def test_defaults_of_the_design() -> None:
    config = load_config({}, None)
    assert config == SamConfig()
    assert (config.backend, config.model_type, config.use_gpu, config.performance_mode) == (
        "auto",
        "vit_h",
        True,
        False,
    )
    assert (config.model_dir, config.onnx_dir) == (ROOT / "model", ROOT / "model" / "onnx")
    assert config.port == 5000


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("SAM_BACKEND", "onnx", "backend", "onnx"),
        ("SAM_BACKEND", " ONNX ", "backend", "onnx"),
        ("SAM_MODEL_TYPE", "tiny", "model_type", "tiny"),
        ("SAM_USE_GPU", "false", "use_gpu", False),
        ("SAM_USE_GPU", "0", "use_gpu", False),
        ("SAM_PERFORMANCE_MODE", "TRUE", "performance_mode", True),
        ("SAM_STRICT", "yes", "strict", True),
        ("SAM_MODEL_DIR", "weights", "model_dir", ROOT / "weights"),
        ("SAM_MODEL_DIR", "/srv/weights", "model_dir", Path("/srv/weights")),
        ("SAM_MODEL_DIR", "~/weights", "model_dir", Path("~/weights").expanduser()),
        ("SAM_PORT", "8080", "port", 8080),
        ("SAM_CACHE_BYTES", "2G", "cache_bytes", 2 << 30),
        ("SAM_CACHE_BYTES", "512m", "cache_bytes", 512 << 20),
        ("SAM_CACHE_BYTES", "3000000", "cache_bytes", 3_000_000),
        ("SAM_SESSION_TTL", "1.5", "session_ttl", 1.5),
        ("SAM_API_KEYS", "one, two,", "api_keys", (hash_key("one"), hash_key("two"))),
        ("SAM_CORS_ORIGINS", "*", "cors_origins", ("*",)),
        ("SAM_CHECKPOINT_MIRROR", "https://mirror.example/sam", "checkpoint_mirror", "https://mirror.example/sam"),
        ("SAM_CHECKPOINT_MIRROR", "", "checkpoint_mirror", None),
        ("SAM_PORT", "", "port", 5000),
    ],
)
def test_values(variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(load_config({variable: text}, None), field) == value


@pytest.mark.parametrize(
    ("variable", "text", "options"),
    [
        ("SAM_BACKEND", "tensorflow", "pytorch, onnx, auto"),
        ("SAM_MODEL_TYPE", "vit_x", "vit_b, vit_l, vit_h, tiny"),
        ("SAM_USE_GPU", "maybe", "true, false"),
        ("SAM_PORT", "0", "1 to 65535"),
        ("SAM_PORT", "70000", "1 to 65535"),
        ("SAM_PORT", "http", "1 to 65535"),
        ("SAM_CACHE_BYTES", "2 apples", "K, M or G"),
        ("SAM_CACHE_BYTES", "-1", "K, M or G"),
        ("SAM_CACHE_BYTES", "1K", "at least 1M"),
        ("SAM_SESSION_TTL", "0", "at least 1"),
        ("SAM_SESSION_TTL", "nan", "at least 1"),
        ("SAM_SESSION_TTL", "inf", "at least 1"),
        ("SAM_CHECKPOINT_MIRROR", "mirror.example", "http or https URL"),
        ("SAM_CHECKPOINT", "/nowhere/sam.pth", "a file that exists"),
    ],
)
def test_bad_value_names_variable_value_and_options(variable: str, text: str, options: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({variable: text}, None)
    message = str(caught.value)
    assert message.startswith(f"{variable}={text!r} is not valid; options: ")
    assert options in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "environ",
    [
        {"SAM_BACKEND": "onnx", "SAM_CHECKPOINT": __file__},
        {"SAM_BACKEND": "pytorch", "SAM_PRECISION": "int8"},
    ],
)
def test_contradictions(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is not valid with SAM_"):
        load_config(environ, None)


def test_env_file_and_environment(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# a comment\nSAM_PORT=6000\nexport SAM_MODEL_TYPE='vit_b'\nSAM_HOST=\n")
    config = load_config({"SAM_PORT": "7000"}, env_file)
    assert (config.port, config.model_type, config.host) == (7000, "vit_b", "127.0.0.1")


def test_env_file_is_not_put_into_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SAM_PORT=6000\n")
    load_config(None, tmp_path / ".env")
    assert os.environ.get("SAM_PORT") != "6000"


@pytest.mark.parametrize(("name", "hint"), [("SAM_MODLE_DIR", "did you mean SAM_MODEL_DIR?"), ("SAM_Q", "settings.md")])
def test_unknown_setting_is_warned_of(caplog: pytest.LogCaptureFixture, name: str, hint: str) -> None:
    with caplog.at_level(logging.WARNING):
        load_config({name: "1", "PATH": "/bin", "SAMPLE": "1"}, None)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{name} is not a setting")
    assert hint in caplog.messages[0]


def test_every_default_can_be_written_and_read_back() -> None:
    texts = {setting.variable: setting.kind.show(setting.default) for setting in SETTINGS}
    assert load_config(texts, None) == SamConfig()


def test_pages_are_those_of_the_table() -> None:
    """Where this fails: python -m sam_config --write-docs."""
    assert SETTINGS_PAGE.read_text() == sam_config.settings_page()
    assert ENV_EXAMPLE.read_text() == sam_config.env_example()
    for setting in SETTINGS:
        assert f"| `{setting.variable}` |" in SETTINGS_PAGE.read_text()


def test_example_with_every_line_taken_in_is_the_default(tmp_path: Path) -> None:
    lines = ENV_EXAMPLE.read_text().splitlines()
    env_file = tmp_path / ".env"
    env_file.write_text("\n".join(line.removeprefix("#") for line in lines if line.startswith("#SAM_")))
    assert load_config({}, env_file) == SamConfig()


def test_every_setting_is_used() -> None:
    """A row that nothing reads is a promise that nothing keeps."""
    readers = [path for path in ROOT.glob("*.py") if path.name != "sam_config.py"]
    code = "\n".join(path.read_text() for path in readers)
    assert [setting.name for setting in SETTINGS if f"config.{setting.name}" not in code] == []


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
    return subprocess.run(
        [sys.executable, "-m", "sam_config", *arguments],
        cwd=ROOT,
        env=clean | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_prints_the_settings_and_hides_secrets() -> None:
    answer = run(SAM_PORT="6001", SAM_API_KEYS="hush")
    assert answer.returncode == 0
    assert "SAM_PORT=6001" in answer.stdout.splitlines()
    assert "SAM_API_KEYS=(hidden)" in answer.stdout.splitlines()
    assert "hush" not in answer.stdout + answer.stderr


def test_command_refuses_in_one_line() -> None:
    answer = run(SAM_PORT="none")
    assert answer.returncode == 2
    assert answer.stderr == "SAM_PORT='none' is not valid; options: 1 to 65535\n"


@pytest.mark.parametrize(
    ("value", "threads"),
    [("3", 3), (" 2 ", 2), ("4,2", 4), ("", None), ("0", None), ("-1", None), ("many", None), (None, None)],
)
def test_threads_are_those_of_openmp_or_the_quota(
    monkeypatch: pytest.MonkeyPatch, value: str | None, threads: int | None
) -> None:
    if value is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert usual_threads() == (threads or cpu_quota())
