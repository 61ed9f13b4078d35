"""Fetch a checkpoint: resumed where it broke off, checked by hash, and there only when it is whole."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from sam_server.checkpoints.table import CheckpointFile

logger = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes read at a time, and the most that a dropped connection loses
# Seconds until the first answer, all addresses, proxies and redirects together: a server that starts up
# behind a firewall shall not wait for a host it cannot reach.
CONTACT_SECONDS = 8.0
READ_SECONDS = 30.0  # silence in the middle of a download that counts as a broken connection
ATTEMPTS = 5  # broken connections in a row, none of which brought a byte
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles with each one
DISK_RESERVE = 64 << 20  # bytes left free on the disk beside the file
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class DownloadError(RuntimeError):
    """A file that did not come; the message says why and what to do."""


class _BrokenOffError(Exception):
    """The connection ended early or the server was busy: worth another attempt."""


@dataclass(frozen=True)
class Patience:
    """How long a download waits and how often it tries again.

    Attributes:
        contact: seconds until the first answer.
        read: seconds of silence in the middle.
        attempts: broken connections in a row before giving up.
        backoff: seconds before the second attempt; doubles with each one.
    """

    contact: float = CONTACT_SECONDS
    read: float = READ_SECONDS
    attempts: int = ATTEMPTS
    backoff: float = BACKOFF_SECONDS


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download_checkpoint(
    file: CheckpointFile,
    directory: Path,
    *,
    mirror: str | None = None,
    patience: Patience = Patience(),
) -> Path:
    """Give the path of a checkpoint in `directory`, fetching it where it is not there yet.

    What has come is kept in NAME.part and continued by the next attempt, or by the next process. Processes that
    want the same file at the same time wait for the one that fetches it. Proxies and certificates are those of
    the standard variables (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE).

    Args:
        file: row of the table.
        directory: where checkpoints are kept; made if missing.
        mirror: base URL that has the file under its own name, in place of the makers' URL.
        patience: time-outs and attempts.

    Returns:
        Path of the whole file, whose sha256 is that of the table.

    Raises:
        DownloadError: it cannot be had; or a file of this name is there and is another one, which is left alone.
    """
    target = directory / file.name
    try:
        if target.exists():  # os.replace put it there whole; the directory may be read-only by now
            _check_existing(target, file)
            return target
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{file.name}.lock")):
            if target.exists():  # the process that held the lock fetched it
                _check_existing(target, file)
            else:
                _Download(file, target, _url(file, mirror), patience).run()
    except OSError as error:
        raise DownloadError(f"{target} cannot be written ({error.strerror or error}); see SAM_MODEL_DIR") from error
    return target


def _url(file: CheckpointFile, mirror: str | None) -> str:
    return file.url if mirror is None else f"{mirror.rstrip('/')}/{file.name}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is fetching %s; waiting for it", path.name.removeprefix(".").removesuffix(".lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_existing(target: Path, file: CheckpointFile) -> None:
    if target.stat().st_size != file.size or sha256_of(target) != file.sha256:
        raise DownloadError(
            f"{target} is there, but it is not the official file of that name; "
            f"delete it to fetch that one, or rename it to sam_{file.model_type}.pth to use it as it is"
        )


class _Download:
    """One download under the lock: the .part file, and the server's validator beside it."""

    def __init__(self, file: CheckpointFile, target: Path, url: str, patience: Patience) -> None:
        self.file = file
        self.target = target
        self.url = url
        self.patience = patience
        self.part = target.with_name(f"{file.name}.part")
        self.etag = target.with_name(f"{file.name}.part.etag")
        self.session = requests.Session()
        self.session.headers["Accept-Encoding"] = "identity"  # a range counts the file's own bytes
        self.answered = False
        self.joined = False  # the .part file comes from more than one connection

    def run(self) -> None:
        if self.offset() > self.file.size:
            self.discard()
        self.check_disk()
        self.joined = self.offset() > 0
        with self.session:
            self.fetch()
            # What was resumed may join two versions of the file: once more from the start before the server is blamed.
            if not self.is_right() and self.joined:
                logger.warning("%s came out wrong after it was resumed; fetching it again", self.file.name)
                self.discard()
                self.fetch()
        if not self.is_right():
            self.discard()
            raise DownloadError(
                f"what {self.url} sends is not {self.file.name}: its sha256 is another one. "
                "Fetch the file in another way and put it into SAM_MODEL_DIR, or try again later"
            )
        os.replace(self.part, self.target)
        self.etag.unlink(missing_ok=True)

    def offset(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        self.joined = False
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)

    def is_right(self) -> bool:
        return sha256_of(self.part) == self.file.sha256

    def check_disk(self) -> None:
        needed = self.file.size - self.offset() + DISK_RESERVE
        free = shutil.disk_usage(self.target.parent).free
        if free < needed:
            raise DownloadError(
                f"{self.file.name} needs {needed / 1e6:,.0f} MB in {self.target.parent}, where {free / 1e6:,.0f} MB "
                "are free; make room, or set SAM_MODEL_DIR to a larger disk"
            )

    def fetch(self) -> None:
        """Fill the .part file, over as many connections as it takes."""
        failures = 0
        # Where nobody watches, a line every ten seconds is enough.
        interval = 0.1 if sys.stderr.isatty() else 10.0
        with tqdm(
            desc=self.file.name,
            total=self.file.size,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            mininterval=interval,
        ) as bar:
            while self.offset() < self.file.size:
                before = self.offset()
                try:
                    self.fetch_once(bar)
                    continue
                except (_BrokenOffError, requests.RequestException) as error:
                    failure = error
                if not self.answered:
                    raise self.unreachable(failure) from failure
                failures = 1 if self.offset() > before else failures + 1
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"{self.url} broke off {failures} times in a row at byte {self.offset():,} "
                        f"of {self.file.size:,} ({_reason(failure)}); start again to continue from there"
                    ) from failure
                time.sleep(self.patience.backoff * 2 ** (failures - 1))

    def fetch_once(self, bar: "tqdm[NoReturn]") -> None:
        """Take what one connection brings."""
        offset = self.offset()
        with self.get(offset) as response:
            offset = self.start_of(response, offset)
            self.keep_etag(response)
            bar.n = offset
            with self.part.open("r+b" if offset else "wb") as part:
                part.seek(offset)
                for chunk in response.iter_content(CHUNK):
                    offset += len(chunk)
                    if offset > self.file.size:
                        raise self.other_size(f"more than {self.file.size:,}")
                    part.write(chunk)
                    bar.update(len(chunk))
                part.flush()
                os.fsync(part.fileno())
        if offset < self.file.size:
            raise _BrokenOffError("the connection ended early")

    def get(self, offset: int) -> requests.Response:
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.etag.exists():
                headers["If-Range"] = self.etag.read_text()
        timeout = (self.patience.contact, self.patience.read)

        def send() -> requests.Response:
            return self.session.get(self.url, headers=headers, stream=True, timeout=timeout)

        response = send() if self.answered else _within(self.patience.contact, send)
        self.answered = True
        return response

    def start_of(self, response: requests.Response, offset: int) -> int:
        """Where the body of `response` belongs in the file.

        Raises:
            DownloadError: the answer is no part of the file, and another attempt would not change that.
            _BrokenOffError: another attempt may.
        """
        status = response.status_code
        if status == requests.codes.partial_content:
            found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset:
                self.discard()
                raise _BrokenOffError("the server sent another range than the one asked for")
            if found[2] not in ("*", str(self.file.size)):
                raise self.other_size(found[2])
            self.joined = True
            return offset
        if status == requests.codes.ok:  # the range was ignored, or the file has changed: all of it from the start
            length = response.headers.get("Content-Length")
            if length is not None and int(length) != self.file.size:
                raise self.other_size(length)
            self.discard()
            return 0
        if status == requests.codes.requested_range_not_satisfiable:
            self.discard()
            raise _BrokenOffError("the server does not have the rest of the file")
        if status in RETRIED_STATUS:
            raise _BrokenOffError(f"HTTP status {status}")
        raise DownloadError(
            f"{self.url} answered with HTTP status {status}; "
            f"set SAM_CHECKPOINT_MIRROR to a server that has {self.file.name}, or put the file into SAM_MODEL_DIR"
        )

    def keep_etag(self, response: requests.Response) -> None:
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # If-Range takes strong validators only (RFC 9110, 13.1.5)
            self.etag.write_text(etag)
        else:
            self.etag.unlink(missing_ok=True)

    def other_size(self, size: str) -> DownloadError:
        self.discard()
        return DownloadError(
            f"{self.url} is {size} bytes long, but {self.file.name} has {self.file.size:,}: it is another file; "
            "check SAM_CHECKPOINT_MIRROR, or put the file into SAM_MODEL_DIR"
        )

    def unreachable(self, error: Exception) -> DownloadError:
        return DownloadError(
            f"no answer from {self.url} ({_reason(error)}); check the network and HTTPS_PROXY, "
            f"set SAM_CHECKPOINT_MIRROR, or put {self.file.name} into SAM_MODEL_DIR"
        )


def _within(seconds: float, send: Callable[[], requests.Response]) -> requests.Response:
    """Call `send`, giving up after `seconds`: name resolution and a host's many addresses know no common time-out."""
    answer: Future[requests.Response] = Future()

    def call() -> None:
        try:
            answer.set_result(send())
        except Exception as error:  # raised again in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not wait([answer], timeout=seconds).done:
        answer.add_done_callback(_close)
        raise _BrokenOffError(f"nothing for {seconds:g} seconds")
    return answer.result()


def _close(answer: Future[requests.Response]) -> None:
    """Close a response that came when nobody waited for it any more; its connection would stay open."""
    if answer.exception() is None:
        answer.result().close()


def _reason(error: BaseException) -> str:
    """The innermost cause in its own words: requests wraps it in layers of addresses and names."""
    while not isinstance(error, _BrokenOffError) and error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
