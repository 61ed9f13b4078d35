"""Downloads from a real HTTP server that misbehaves in the ways servers and networks do."""

import contextlib
import gc
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sam_server.checkpoints.download import DownloadError, Patience, download_checkpoint, sha256_of
from sam_server.checkpoints.table import CHECKPOINTS, CheckpointFile
from sam_server.network.variants import VARIANTS
from tests.checkpoints.scripted_server import CONTENT, Answer, Scripted, a_file, scripted_server

WRONG = CONTENT[:1_700_000] + bytes([CONTENT[1_700_000] ^ 1]) + CONTENT[1_700_001:]
MIB = 1 << 20
IMPATIENT = Patience(contact=1.0, read=0.5, attempts=3, backoff=0.01)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted_server() as scripted:
        yield scripted


@pytest.fixture
def file(server: Scripted) -> CheckpointFile:
    return a_file(f"{server.url}/weights/sam_test.pth")


def assert_whole(directory: Path) -> None:
    assert (directory / "sam_test.pth").read_bytes() == CONTENT
    # Nothing half-done stays beside it.
    assert sorted(path.name for path in directory.iterdir()) == [".sam_test.pth.lock", "sam_test.pth"]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def assert_absent(directory: Path) -> None:
    assert not (directory / "sam_test.pth").exists()


def test_plain(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    path = download_checkpoint(file, tmp_path / "new" / "directory")
    assert path == tmp_path / "new" / "directory" / "sam_test.pth"
    assert_whole(path.parent)
    assert server.requests[0]["path"] == "/weights/sam_test.pth"
    # Once there, it is not fetched again.
    download_checkpoint(file, path.parent)
    assert len(server.requests) == 1


def test_progress_is_shown(tmp_path: Path, file: CheckpointFile, capsys: pytest.CaptureFixture[str]) -> None:
    download_checkpoint(file, tmp_path)
    shown = capsys.readouterr().err
    assert "sam_test.pth: 100%" in shown
    assert "2.86M/2.86M" in shown


def test_mirror(tmp_path: Path, server: Scripted) -> None:
    file = a_file("http://makers.invalid/sam_test.pth")
    download_checkpoint(file, tmp_path, mirror=f"{server.url}/mirror/", patience=IMPATIENT)
    assert_whole(tmp_path)
    assert server.requests[0]["path"] == "/mirror/sam_test.pth"


def test_proxy_of_the_environment(tmp_path: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    download_checkpoint(a_file("http://makers.invalid/sam_test.pth"), tmp_path)
    assert_whole(tmp_path)
    # A proxy is asked for the whole address.
    assert server.requests[0]["path"] == "http://makers.invalid/sam_test.pth"


@pytest.mark.parametrize("length", [True, False], ids=["length-told", "length-not-told"])
def test_resumes_a_dropped_connection(tmp_path: Path, server: Scripted, file: CheckpointFile, length: bool) -> None:
    dropping = Answer(sent=MIB, length=length)
    server.answers = [dropping, dropping, Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert server.ranges == [None, "bytes=1048576-", "bytes=2097152-"]
    assert [headers.get("If-Range") for headers in server.requests] == [None, '"1"', '"1"']


def test_resumes_in_the_next_process(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(sent=MIB), Answer(sent=0)]
    with pytest.raises(DownloadError, match=r"broke off 3 times in a row at byte 1,048,576 of 3,000,000"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_absent(tmp_path)
    server.answers = [Answer()]
    server.requests.clear()
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert server.ranges == ["bytes=1048576-"]


def test_server_that_stalls(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(pause=2.0), Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert len(server.requests) == 2


def test_slow_server_is_waited_for(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(pause=0.05)]  # 30 chunks: three times as long as one silence may last
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert len(server.requests) == 1


def test_server_that_ignores_ranges(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(sent=MIB), Answer(ranges=False)]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)


def test_server_that_ignores_ranges_and_always_drops(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(sent=MIB, ranges=False)]
    with pytest.raises(DownloadError, match="broke off 3 times"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_absent(tmp_path)
    assert len(server.requests) == 3


@pytest.mark.parametrize("shift", [-500_000, 1])
def test_server_that_sends_another_range(tmp_path: Path, server: Scripted, file: CheckpointFile, shift: int) -> None:
    server.answers = [Answer(sent=MIB), Answer(shift=shift), Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)


def test_file_that_changes_in_between(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(content=WRONG, sent=2 * MIB, etag='"old"'), Answer(etag='"new"')]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert len(server.requests) == 2  # If-Range brought the new file whole


def test_file_that_changes_on_a_server_without_etags(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(content=WRONG, sent=2 * MIB, etag=None), Answer(etag=None)]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert server.ranges == [None, "bytes=2097152-", None]  # the hash told, and all of it was fetched again


def test_weak_etag_is_not_sent_back(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(sent=MIB, etag='W/"1"'), Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert "If-Range" not in server.requests[1]


def test_wrong_byte(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(content=WRONG)]
    with pytest.raises(DownloadError, match="sha256 is another one"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert [path.name for path in tmp_path.iterdir()] == [".sam_test.pth.lock"]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"<html>please log in</html>"])
@pytest.mark.parametrize("length", [True, False], ids=["length-told", "length-not-told"])
def test_another_file(tmp_path: Path, server: Scripted, file: CheckpointFile, content: bytes, length: bool) -> None:
    server.answers = [Answer(content=content, length=length)]
    with pytest.raises(DownloadError, match=r"is another file|broke off"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_absent(tmp_path)


def test_rest_that_the_server_does_not_have(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(sent=MIB), Answer(status=416), Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refused(tmp_path: Path, server: Scripted, file: CheckpointFile, status: int) -> None:
    server.answers = [Answer(status=status)]
    with pytest.raises(DownloadError, match=rf"HTTP status {status}; set SAM_CHECKPOINT_MIRROR"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert len(server.requests) == 1
    assert_absent(tmp_path)


def test_busy_server_is_asked_again(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(status=503), Answer(status=429), Answer()]
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)


def test_busy_server_is_not_asked_for_ever(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(status=503)]
    with pytest.raises(DownloadError, match=r"3 times in a row .*HTTP status 503"):
        download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert len(server.requests) == 3


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer from .*refused.*put sam_test\.pth into SAM_MODEL_DIR"):
        download_checkpoint(a_file(f"http://127.0.0.1:{port}/sam_test.pth"), tmp_path)
    assert time.monotonic() - start < 2.0


def test_no_answer(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(before=1.5, pause=0.2)]  # not all of it at once: buffers would take it
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer from .*nothing for 0\.5 seconds"):
        download_checkpoint(file, tmp_path, patience=replace(IMPATIENT, contact=0.5, read=5.0))
    assert time.monotonic() - start < 1.2
    # The answer comes when nobody waits for it any more, and its connection is closed, not left to the collector.
    with no_collection():
        assert server.left.wait(30)


def test_existing_file_of_another_content_is_left_alone(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    (tmp_path / file.name).write_bytes(WRONG)
    with pytest.raises(DownloadError, match=r"not the official file of that name; delete it .* or rename it"):
        download_checkpoint(file, tmp_path)
    assert (tmp_path / file.name).read_bytes() == WRONG
    assert server.requests == []


def test_part_that_is_too_long(tmp_path: Path, file: CheckpointFile) -> None:
    (tmp_path / f"{file.name}.part").write_bytes(CONTENT + b"x")
    download_checkpoint(file, tmp_path)
    assert_whole(tmp_path)


def test_part_that_is_complete(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    (tmp_path / f"{file.name}.part").write_bytes(CONTENT)
    download_checkpoint(file, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == []


def test_not_enough_disk(
    tmp_path: Path, server: Scripted, file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DownloadError, match=r"needs 70 MB in .*, where 1 MB are free; make room"):
        download_checkpoint(file, tmp_path)
    assert server.requests == []


def test_directory_that_is_a_file(tmp_path: Path, file: CheckpointFile) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        download_checkpoint(file, tmp_path / "model")


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from sam_server.checkpoints.download import download_checkpoint
from sam_server.checkpoints.table import CheckpointFile
url, size, sha256, directory = sys.argv[1:]
download_checkpoint(CheckpointFile("test", "sam_test.pth", url, int(size), sha256, "Apache-2.0", 64), Path(directory))
"""


def another_process(file: CheckpointFile, directory: Path) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[2]
    arguments = [file.url, str(file.size), file.sha256, str(directory)]
    return subprocess.Popen([sys.executable, "-c", ANOTHER_PROCESS, *arguments], cwd=root, stderr=subprocess.DEVNULL)


def test_two_processes_download_once(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(pause=0.05)]
    processes = [another_process(file, tmp_path) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert_whole(tmp_path)
    assert len(server.requests) == 1


def test_process_that_is_killed_leaves_no_lock(tmp_path: Path, server: Scripted, file: CheckpointFile) -> None:
    server.answers = [Answer(pause=0.2), Answer()]
    process = another_process(file, tmp_path)
    part = tmp_path / f"{file.name}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = part.stat().st_size
    download_checkpoint(file, tmp_path, patience=IMPATIENT)
    assert_whole(tmp_path)
    assert server.ranges == [None, f"bytes={kept}-"]


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_table_is_well_formed() -> None:
    assert {"vit_b", "vit_l", "vit_h"} <= CHECKPOINTS.keys()
    for model_type, row in CHECKPOINTS.items():
        assert row.model_type == model_type
        assert re.fullmatch("[0-9a-f]{64}", row.sha256)
        assert row.url.startswith("https://")
        assert row.url.endswith(f"/{row.name}")
        assert row.size > 10_000_000
    assert len({row.sha256 for row in CHECKPOINTS.values()}) == len(CHECKPOINTS)


def test_page_has_the_rows_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for row in CHECKPOINTS.values():
        if row.model_type in VARIANTS:  # what can run
            cells = (row.model_type, f"[{row.name}]({row.url})", f"{row.size:,}", f"`{row.sha256}`", row.licence)
            assert f"| {' | '.join(cells)} | {row.input_size} |" in page
            assert VARIANTS[row.model_type].image_size == row.input_size
