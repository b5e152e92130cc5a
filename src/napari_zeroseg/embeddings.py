"""Embeddings that need not be made twice: the last ones in memory, all of them on disk.

An embedding is found by what was encoded and by what encoded it: the pixels of the window and the model's key. So a
file that was renamed, moved or opened next week finds its embeddings, and a changed plane does not find a wrong one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from napari_zeroseg.segmenter import Embedding
from napari_zeroseg.settings import Settings
from napari_zeroseg.tiling import whole

_log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_ABANDONED_SECONDS = 3600.0
"""Age from which another process's temporary file is taken for the remains of a killed one."""


def content_key(picture: NDArray[np.uint8], model_key: str) -> str:
    """Return the name under which the embedding of `picture` (H, W) or (H, W, 3) by a model is kept."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((model_key, picture.shape)).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def as_kept(embedding: Embedding) -> Embedding:
    """Return the embedding as it will come back from disk, so that a first answer is the same as a later one.

    Values pass through half precision; their type stays. Nothing that was derived of the finer values is kept.
    """
    tensors = {name: _rounded(tensor) for name, tensor in embedding.tensors.items()}
    return replace(embedding, tensors=tensors, memo={})


class EmbeddingStore:
    """Embeddings in memory (least recently used ones leave first) and on disk (fp16, one file each).

    Safe for several threads and several processes: files are written to a temporary name and renamed, and one that
    has gone or is damaged is made anew.

    Parameters
    ----------
    folder : Path, optional
        Where files lie; None keeps everything in memory.
    memory_bytes, disk_bytes : int
        Limits in bytes. The disk limit is held to within one embedding a process.
    """

    def __init__(self, folder: Path | None = None, memory_bytes: int = 10**9, disk_bytes: int = 10**10) -> None:
        self.folder = folder if disk_bytes > 0 else None
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.writes = 0
        self._held: OrderedDict[str, Embedding] = OrderedDict()
        self._lock = threading.Lock()
        self._on_disk: int | None = None

    def get(self, key: str, shape: tuple[int, int], model_key: str) -> Embedding | None:
        """Return the embedding of `key`, or None if it has to be made.

        Parameters
        ----------
        key : str
            From :func:`content_key`.
        shape : tuple of int
            (H, W) of the picture.
        model_key : str
            Of the model that will use it.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        tensors = self._read(key)
        if tensors is None:
            return None
        embedding = Embedding(tensors, shape, model_key, whole(shape))
        self._hold(key, embedding)
        return embedding

    def holds(self, key: str) -> bool:
        """Whether :meth:`get` would find the embedding of `key`."""
        with self._lock:
            if key in self._held:
                return True
        return self.folder is not None and self._path(key).is_file()

    def size_of(self, key: str) -> int:
        """Bytes that the embedding of `key` takes on disk, or in memory where it is only there; 0 where it is not."""
        if self.folder is not None:
            with suppress(OSError):
                return self._path(key).stat().st_size
        with self._lock:
            return _size(self._held[key]) if key in self._held else 0

    @property
    def capacity(self) -> int:
        """Bytes of the larger of its two places: on disk if there is a folder, else in memory."""
        return self.memory_bytes if self.folder is None else self.disk_bytes

    def put(self, key: str, embedding: Embedding, in_memory: bool = True) -> None:
        """Keep an embedding; a disk that is full or read-only is reported once and then left alone.

        Parameters
        ----------
        key : str
            From :func:`content_key`.
        embedding : Embedding
        in_memory : bool
            Hold it in memory too. Who fills the store for later says no, so that what is in use now stays there;
            without a folder memory is all there is.
        """
        if in_memory or self.folder is None:
            self._hold(key, embedding)
        if self.folder is None:
            return
        path = self._path(key)
        try:
            self._write(path, {name: _as_numpy(tensor) for name, tensor in embedding.tensors.items()})
            self._keep_to_limit(path)
        except OSError as error:
            _log.warning(
                "Embeddings cannot be kept on disk (%s); this session goes on with those in memory. "
                "Make room, or set ZEROSEG_CACHE_DIR to another folder.",
                error,
            )
            self.folder = None

    def clear_memory(self) -> None:
        """Let go of everything held in memory."""
        with self._lock:
            self._held.clear()

    def _hold(self, key: str, embedding: Embedding) -> None:
        with self._lock:
            self._held[key] = embedding
            self._held.move_to_end(key)
            total = sum(_size(held) for held in self._held.values())
            while total > self.memory_bytes and len(self._held) > 1:
                _, oldest = self._held.popitem(last=False)
                total -= _size(oldest)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / (key + _SUFFIX)

    def _read(self, key: str) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            tensors = load_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SafetensorError) as error:
            _log.warning("A kept embedding is damaged and is made again (%s).", error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a folder that others filled may be read-only
            os.utime(path)
        return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}

    def _write(self, path: Path, tensors: dict[str, NDArray[np.float16]]) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save(tensors))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self.writes += 1

    def _keep_to_limit(self, newest: Path) -> None:
        """Delete the files that were used longest ago until the folder is within its limit."""
        if self._on_disk is not None:
            with suppress(FileNotFoundError):  # another process may have made room already
                self._on_disk += newest.stat().st_size
            if self._on_disk <= self.disk_bytes:
                return
        files = sorted(self._files(), key=lambda file: file[0])
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.disk_bytes:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size
        self._on_disk = total

    def _files(self) -> list[tuple[float, int, Path]]:
        assert self.folder is not None
        found = []
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            if path.suffix == ".tmp" and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
            elif path.suffix == _SUFFIX:
                found.append((status.st_mtime, status.st_size, path))
        return found


def default_store(memory_bytes: int | None = None) -> EmbeddingStore:
    """Return a store in the user's cache folder, with the limits of the settings.

    Parameters
    ----------
    memory_bytes : int, optional
        A smaller limit for what is held in memory, as for a run that sees each plane once.
    """
    settings = Settings.from_environment()
    held = settings.memory_bytes if memory_bytes is None else min(memory_bytes, settings.memory_bytes)
    return EmbeddingStore(settings.cache_dir / "embeddings", held, settings.disk_bytes)


def _as_numpy(tensor: Any) -> NDArray[np.float16]:
    if hasattr(tensor, "detach"):  # torch, which this module does not import
        tensor = tensor.detach().float().cpu().numpy()
    return np.ascontiguousarray(tensor, dtype=np.float16)


def _rounded(tensor: Any) -> Any:
    if hasattr(tensor, "half"):  # torch, which this module does not import
        return tensor.half().to(tensor.dtype)
    return np.asarray(tensor, np.float16).astype(tensor.dtype)


def _size(embedding: Embedding) -> int:
    held = sum(int(tensor.nbytes) for tensor in embedding.tensors.values())
    # what a model derives of it (the same in the decoder's order and type) takes up to as much again
    return 2 * held
