"""Fetch one file over HTTP: in parts, resumed where a connection broke, hashed while it comes.

Range requests and validators are those of RFC 9110 (sections 13 and 14). Proxies, certificates and the like are taken
from the environment by `requests`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import requests

from napari_zeroseg.errors import DownloadError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.answers import (
    BrokenError,
    explained,
    hash_told,
    refusal,
    refuse_downgrade,
    total_of,
)
from napari_zeroseg.weights.folder import megabytes
from napari_zeroseg.weights.sources import host_of

_log = logging.getLogger(__name__)

CHUNK = 1 << 14
"""Bytes between two looks at the cancel token, and the most that a broken connection costs; small, for slow lines."""

REPORT_EVERY = 0.1
"""Seconds between two reports of progress."""

RETRIES_WITHOUT_A_BYTE = 2
"""Where nothing ever came, there is most likely no network, and nobody wants to wait long to hear it."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those that there will be (0 if unknown)."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try.

    Attributes
    ----------
    connect, read : float
        For the connection, and for the next bytes of a connection that says nothing.
    retries : int
        Further tries in a row of which none brings a byte.
    pause : float
        Before the first of them; it doubles with each, up to 30.
    """

    connect: float = 10.0
    read: float = 20.0
    retries: int = 5
    pause: float = 0.5


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes
    ----------
    url : str
        Its address.
    sha256, size : str, int
        What it must be; empty or 0 where unknown.
    headers : mapping of str to str
        To send along.
    from_hub : bool
        Whether the server is a model hub, which tells the file's sha256 in a header.
    """

    url: str
    sha256: str = ""
    size: int = 0
    headers: Mapping[str, str] | None = None
    from_hub: bool = False


@dataclass(frozen=True)
class Fetched:
    """What came: hash, bytes, and how many of those were there from an earlier try."""

    sha256: str
    size: int
    resumed_at: int
    is_published: bool


def fetch(
    wanted: Wanted,
    part: Path,
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch a file into `part`, going on from what is there of it.

    Beside `part` a note (see :func:`note_of`) says what it is part of. Both stay after an error, a cancellation or a
    kill, and are the start of the next try; what proves wrong is removed.

    Parameters
    ----------
    wanted : Wanted
        The file.
    part : Path
        Where its bytes go; when this returns, all are there and have the right hash.
    progress : callable, optional
        Called with (bytes there, bytes in all or 0), ten times a second at most.
    cancel : CancelToken, optional
        Looked at between chunks.
    patience : Patience, optional
        Timeouts and tries.

    Returns
    -------
    Fetched

    Raises
    ------
    DownloadError
        If the server cannot be reached, does not have the file or sends another.
    WriteError
        If there is no room, or the folder cannot be written.
    CancelledError
        If `cancel` was raised.
    """
    patience = patience or Patience()
    cancel = cancel or CancelToken()
    with requests.Session() as session:
        session.headers["User-Agent"] = f"napari-zeroseg/{version('napari-zeroseg')}"
        transfer = _Transfer(wanted, part, session, patience, cancel, progress)
        transfer.resume()
        resumed_at = transfer.done
        transfer.run()
        if not transfer.is_right() and resumed_at:
            # The bytes of an earlier day may be another file's: once more, from the beginning.
            _log.info("The parts of %s do not fit together; it is fetched from the beginning.", host_of(wanted.url))
            transfer.restart()
            resumed_at = 0
            transfer.run()
        if not transfer.is_right():
            sentence = transfer.wrong()
            transfer.discard()
            raise DownloadError(sentence)
    return Fetched(transfer.sha256, transfer.done, resumed_at, bool(transfer.expected))


def note_of(part: Path) -> Path:
    """Return the path of the note beside a part."""
    return part.with_name(part.name + ".json")


class _Transfer:
    """One file on its way: what is there, its hash so far, and what the server said about it."""

    def __init__(
        self,
        wanted: Wanted,
        part: Path,
        session: requests.Session,
        patience: Patience,
        cancel: CancelToken,
        progress: Progress | None,
    ) -> None:
        self.wanted = wanted
        self.part = part
        self.note = note_of(part)
        self.expected = wanted.sha256
        self.total = wanted.size
        self.done = 0
        self._validator = ""
        self._session = session
        self._patience = patience
        self._cancel = cancel
        self._progress = progress
        self._reported = float("-inf")
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def resume(self) -> None:
        """Take up what an earlier try left, if it can be told that it belongs to this file."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            validator = str(noted["validator"]) if noted["url"] == self.wanted.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            validator = ""
        if not self.part.is_file() or not (validator or self.expected):
            return
        with self.part.open("rb") as file:
            while block := file.read(1 << 20):
                self._cancel.raise_if_cancelled()
                self._take(block)
        self._validator = validator
        if self.total and self.done > self.total:
            self.restart()

    def restart(self) -> None:
        """Forget what is there."""
        self.done = 0
        self._validator = ""
        self._digest = hashlib.sha256()
        with self._writing():
            self.part.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what is there."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def run(self) -> None:
        """Bring the file in, over as many connections as it takes."""
        failures = 0
        while True:
            self._cancel.raise_if_cancelled()
            before = self.done
            try:
                with self._writing(), self.part.open("ab") as file:
                    if not self._has_all():
                        self._connect(file)
                    os.fsync(file.fileno())
                self._report(last=True)
                return
            except BrokenError as error:
                failures = 0 if self.done > before else failures + 1
                if failures > self._patience.retries or (not self.done and failures > RETRIES_WITHOUT_A_BYTE):
                    raise DownloadError(self._gave_up(str(error))) from error
                pause = max(min(self._patience.pause * 2**failures, 30.0), error.wait)
                _log.info("%s; trying again in %.1f s.", self._broke(str(error)), pause)
                self._sleep(pause)

    def _has_all(self) -> bool:
        return 0 < self.wanted.size == self.done

    def is_right(self) -> bool:
        """Whether what came is the file that was wanted, as far as anybody said what that is."""
        right_size = not self.wanted.size or self.done == self.wanted.size
        return right_size and (not self.expected or self.sha256 == self.expected)

    def wrong(self) -> str:
        """Say what is wrong with what came."""
        host = host_of(self.wanted.url)
        if self.wanted.size and self.done != self.wanted.size:
            return (
                f"{host} sent {self.done:,} bytes where {self.wanted.size:,} were expected: it is another file, and "
                "has been removed. Try again later, or get the file elsewhere and add it."
            )
        return (
            f"{host} sent a file with a wrong hash (sha256 {self.sha256[:12]}…, expected "
            f"{self.expected[:12]}…); it has been removed. Try again later, or get the file elsewhere and add it."
        )

    def _connect(self, file: IO[bytes]) -> None:
        """Ask for what is missing and append it to `file`."""
        headers = {**(self.wanted.headers or {}), "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        with explained(self.wanted.url):
            limits = (self._patience.connect, self._patience.read)
            with self._session.get(self.wanted.url, headers=headers, stream=True, timeout=limits) as response:
                if self._begin(response, file):
                    self._check_room()
                    for chunk in response.iter_content(CHUNK):
                        file.write(chunk)
                        self._take(chunk)
                        self._cancel.raise_if_cancelled()
                        self._report()
                        self._refuse_too_much()
        if self.total and self.done < self.total:
            raise BrokenError("the server closed the connection early")

    def _begin(self, response: requests.Response, file: IO[bytes]) -> bool:
        """Read the answer's head; False if nothing is missing."""
        refuse_downgrade(response)
        if response.status_code == 416:
            if total_of(response) == self.done:
                return False
            self._from_the_start(file)
            raise BrokenError("the file on the server has changed")
        if response.status_code not in (200, 206):
            raise refusal(response, self.wanted.url, self.wanted.from_hub)
        if response.status_code == 206:
            self._continue(response, file)
        else:
            if self.done:
                _log.info("%s sends the file from the beginning again.", host_of(self.wanted.url))
            self._from_the_start(file)
        self._learn(response)
        return True

    def _continue(self, response: requests.Response, file: IO[bytes]) -> None:
        """Make sure that a part of a file continues ours."""
        begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        etag = response.headers.get("ETag", "")
        changed = bool(etag and self._validator.startswith('"') and etag != self._validator)
        if begins is None or int(begins[1]) != self.done or changed:
            self._from_the_start(file)
            raise BrokenError("the file on the server has changed")

    def _from_the_start(self, file: IO[bytes]) -> None:
        file.truncate(0)
        self.done = 0
        self._validator = ""
        self._digest = hashlib.sha256()

    def _learn(self, response: requests.Response) -> None:
        """Keep what the server says of the file: its size, its hash, and how to ask for the same one again."""
        total = total_of(response)
        if total and self.wanted.size and total != self.wanted.size:
            raise DownloadError(
                f"{host_of(self.wanted.url)} offers {total:,} bytes where {self.wanted.size:,} were expected: it is "
                "not the file. Try again later, or get the file elsewhere and add it."
            )
        self.total = total or self.wanted.size
        if self.wanted.from_hub and not self.expected:
            self.expected = hash_told(response)
        etag = response.headers.get("ETag", "")
        self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        note = {"url": self.wanted.url, "validator": self._validator, "total": self.total}
        self.note.write_text(json.dumps(note), encoding="utf-8")

    def _check_room(self) -> None:
        missing = self.total - self.done
        free = shutil.disk_usage(self.part.parent).free
        if missing > free:
            raise WriteError(
                f"There is no room for the file: {megabytes(missing)} are missing and {megabytes(free)} are free in "
                f"{self.part.parent}. Make room, or set ZEROSEG_DATA_DIR to a larger disk."
            )

    def _refuse_too_much(self) -> None:
        if self.wanted.size and self.done > self.wanted.size:
            sentence = self.wrong()
            self.discard()
            raise DownloadError(sentence)

    def _take(self, block: bytes) -> None:
        self.done += len(block)
        self._digest.update(block)

    def _report(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._progress is not None and (last or now - self._reported >= REPORT_EVERY):
            self._reported = now
            self._progress(self.done, self.total)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._cancel.raise_if_cancelled()
            time.sleep(min(left, 0.1))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (DownloadError, WriteError, requests.RequestException):
            raise
        except OSError as error:
            raise WriteError(
                f"The file could not be written to {self.part.parent} ({error.strerror}): make room there, or set "
                f"ZEROSEG_DATA_DIR to another disk. {megabytes(self.done)} are there and are kept for the next try."
            ) from error

    def _broke(self, why: str) -> str:
        there = f" at {self.done:,} of {self.total:,} bytes" if self.total else ""
        return f"The connection to {host_of(self.wanted.url)} broke{there} ({why})"

    def _gave_up(self, why: str) -> str:
        if not self.done:
            return f"{host_of(self.wanted.url)} cannot be reached ({why}): look at the network, and try again."
        return (
            f"{self._broke(why)}, again and again. What has come is kept: try again later, and it goes on from there."
        )
