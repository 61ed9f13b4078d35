"""docker-compose.yml, as the real `docker compose config` reads it; no engine runs for that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam_config import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sys.prefix) / "bin" / "docker-compose"
# Bytes that compose counts in its units of time and size.
SECOND = {"s": 1, "m": 60, "h": 3600}


def read(*arguments: str) -> dict:
    """The configuration with all defaults, anchors and profiles worked out."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "SAM_"))}
    command = [str(COMPOSE), "--file", "docker-compose.yml", *arguments, "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


def seconds(text: str) -> float:
    """Seconds of a duration such as 1m30s."""
    total, number = 0.0, ""
    for letter in text:
        if letter in SECOND:
            total, number = total + float(number) * SECOND[letter], ""
        else:
            number += letter
    return total


@pytest.fixture(scope="module")
def services() -> dict:
    """All services, those of a profile too."""
    return read("--profile", "gpu")["services"]


@pytest.fixture(scope="module")
def ours(services) -> dict:
    """Those that run our images."""
    return {name: service for name, service in services.items() if name != "redis"}


def test_without_a_profile_it_is_the_processor():
    assert set(read()["services"]) == {"server", "worker", "redis"}


def test_images_are_targets_of_the_dockerfile(ours, stages):
    built = {service["image"]: service["build"]["target"] for service in ours.values() if "build" in service}
    assert {service["image"] for service in ours.values()} == set(built)
    assert set(built.values()) == {"cpu", "cuda"} <= set(stages)


def test_gpus_are_reserved_for_those_that_use_them(ours):
    for name, service in ours.items():
        devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if name.endswith("-gpu") else [])
        assert service["image"].endswith(":cuda" if name.endswith("-gpu") else ":cpu")


def test_only_this_machine_reaches_them(services):
    for service in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    assert "ports" not in services["redis"]


def test_they_run_without_privileges(services, stages):
    for name, service in services.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == ("redis" if name == "redis" else stages["cpu"].values("USER")[-1])


def test_memory_and_logs_are_bounded(services):
    for service in services.values():
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0
        assert {"max-size", "max-file"} <= set(service["logging"]["options"])


def test_redis_gives_up_sessions_and_never_jobs(services):
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "volatile-lru"
    assert "--maxmemory" in command


def test_settings_are_settings(ours):
    known = {setting.variable for setting in SETTINGS}
    for service in ours.values():
        assert set(service["environment"]) <= known
        assert service["environment"]["SAM_REDIS_URL"].startswith("redis://redis:")


def test_weights_are_in_a_volume_of_all(ours, stages):
    for service in ours.values():
        mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
        assert mounts == {stages["cpu"].values("VOLUME")[-1]: "models"}


def test_they_have_time_to_stop(ours, stop_seconds):
    for service in ours.values():
        assert seconds(service["stop_grace_period"]) > stop_seconds


def test_all_wait_for_redis_and_are_watched(services, stages):
    for name, service in services.items():
        if name == "redis":
            assert service["healthcheck"]["test"][0] == "CMD"
            continue
        assert service["depends_on"]["redis"]["condition"] == "service_healthy"
        # Servers have that of the image.
        assert ("healthcheck" in service) == name.startswith("worker")
    assert stages["cpu"].values("HEALTHCHECK")


def test_workers_start_the_module_that_is_there(ours):
    for name, service in ours.items():
        if name.startswith("worker"):
            command = service["command"]
            assert command[0] == "celery"
            assert (ROOT / f"{command[command.index('--app') + 1]}.py").is_file()
