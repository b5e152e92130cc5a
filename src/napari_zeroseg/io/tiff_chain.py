"""Whether the directory of a TIFF is whole; a reader that follows a broken one silently loses pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from napari_zeroseg.errors import ReadError

_DESCRIPTION = 270


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of the parts of a directory: TIFF has others than BigTIFF."""

    count: int
    entry: int
    offset: int


_TIFF, _BIG_TIFF = _Sizes(2, 12, 4), _Sizes(8, 20, 8)


def check_chain(path: Path) -> None:
    """Follow the directory from page to page.

    Parameters
    ----------
    path : Path
        An existing file.

    Raises
    ------
    ReadError
        If the file is no TIFF, the chain leads behind its end or in a circle, or the description is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[:2] not in (b"II", b"MM") or len(head) < 8:
            raise ReadError(f"{path.name} is not a TIFF, as its ending says: export it again, or rename it.")
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"

        def number(raw: bytes) -> int:
            return int.from_bytes(raw, order)

        sizes = _BIG_TIFF if number(head[2:4]) == 43 else _TIFF
        offset, seen = number(head[8:16] if sizes is _BIG_TIFF else head[4:8]), set[int]()
        while offset:
            if offset in seen:
                raise ReadError(f"{path.name} is damaged: its pages run in a circle. Export it again.")
            # no system seeks as far as a damaged file may say
            tags, following = _directory(file, offset, sizes, number) if offset < size else (b"", b"")
            if len(following) < sizes.offset:
                raise ReadError(
                    f"{path.name} is truncated: page {len(seen)} should be described at byte {offset}, but the file "
                    f"ends at byte {size}. Copy or export it again."
                )
            if not seen and _cuts_description(tags, sizes, size, number):
                raise ReadError(f"{path.name} is truncated: its description is cut off. Copy or export it again.")
            seen.add(offset)
            offset = number(following)


def _directory(file: BinaryIO, offset: int, sizes: _Sizes, number: Callable[[bytes], int]) -> tuple[bytes, bytes]:
    """Entries of the directory at `offset`, and the bytes that say where the next one is."""
    file.seek(offset)
    entries = number(file.read(sizes.count))
    if sizes is _BIG_TIFF and entries > 1 << 16:
        return b"", b""  # nonsense that should not be read into memory
    return file.read(entries * sizes.entry), file.read(sizes.offset)


def _cuts_description(tags: bytes, sizes: _Sizes, size: int, number: Callable[[bytes], int]) -> bool:
    """Whether the text that names axes and voxel size, one byte a letter, goes on behind the end of the file."""
    for start in range(0, len(tags), sizes.entry):
        tag = tags[start : start + sizes.entry]
        length = number(tag[4 : 4 + sizes.offset])
        if number(tag[:2]) == _DESCRIPTION and length > sizes.offset:
            return number(tag[-sizes.offset :]) + length > size
    return False
