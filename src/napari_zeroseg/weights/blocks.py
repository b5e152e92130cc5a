"""Large files a block at a time, so that whoever reads, hashes or copies gigabytes can be stopped."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from napari_zeroseg.jobs import CancelToken

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 1 << 20


def blocks_of(file: IO[bytes], cancel: CancelToken | None = None) -> Iterator[bytes]:
    """Yield what is in an open file; raise CancelledError between two blocks once `cancel` was raised."""
    while block := file.read(_BLOCK):
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield block


def copy_file(source: Path, target: Path, cancel: CancelToken | None = None) -> None:
    """Copy a file's content; what there is of it after an error or a cancellation is for the caller to remove.

    Raises
    ------
    CancelledError
        If `cancel` was raised.
    """
    with source.open("rb") as read, target.open("wb") as written:
        for block in blocks_of(read, cancel):
            written.write(block)


class StoppableFile(io.BufferedReader):
    """A file that seems to end once `cancel` is raised: readers in C, which no exception may leave, then give up."""

    def __init__(self, path: Path, cancel: CancelToken) -> None:
        super().__init__(io.FileIO(path))
        self._cancel = cancel

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes."""
        return b"" if self._cancel.cancelled else super().read(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into a buffer; return how many bytes."""
        return 0 if self._cancel.cancelled else super().readinto(buffer)
