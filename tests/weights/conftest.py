"""A web server on this machine that behaves as badly as a test asks it to, and a small model to fetch from it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.weights import WeightsSource
from napari_zeroseg.weights.fetch import Patience

QUICK = Patience(connect=2, read=1, retries=3, pause=0.01)


@dataclass
class Answer:
    """How one request is answered; the default is as it should be."""

    status: int = 0
    break_at: int | None = None  # bytes of the body before the connection is cut
    claim: int | None = None  # Content-Length in place of the true one
    ranges: bool = True
    if_range: bool = True
    etag: bool = True
    length: bool = True
    endless: bool = False
    delay: float = 0.0
    pace: float = 0.0  # seconds after each 20,000 bytes
    headers: dict[str, str] = field(default_factory=dict)


class Site:
    """Files by path, what went wrong with each request in turn, and what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Answer]] = defaultdict(list)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self.lock = threading.Lock()

    def put(self, path: str, content: bytes, *answers: Answer) -> str:
        self.files[path] = content
        self.script[path] = list(answers)
        return f"{self.url}{path}"

    def ranges(self, path: str) -> list[str]:
        return [headers.get("Range", "") for asked, headers in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        with self.site.lock:
            self.site.asked.append((path, dict(self.headers.items())))
            script = self.site.script.get(path, [])
            answer = script.pop(0) if script else Answer()
        time.sleep(answer.delay)
        content = self.site.files.get(path)
        if answer.status or content is None:
            self._head(answer.status or 404, {"Content-Length": "0", **answer.headers})
        else:
            self._file(content, answer)

    def _file(self, content: bytes, answer: Answer) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        begin = self._begin(etag, answer)
        headers = dict(answer.headers)
        if answer.etag:
            headers["ETag"] = etag
        if begin >= len(content) > 0 and begin:
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body = content[begin:]
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if answer.length:
            headers["Content-Length"] = str(len(body) if answer.claim is None else answer.claim)
        self._head(206 if begin else 200, headers)
        self._body(body, answer)

    def _begin(self, etag: str, answer: Answer) -> int:
        wanted = self.headers.get("Range", "")
        if not (answer.ranges and wanted):
            return 0
        if answer.if_range and self.headers.get("If-Range", etag) != etag:
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, body: bytes, answer: Answer) -> None:
        if answer.break_at is not None:
            body = body[: answer.break_at]
        for start in range(0, len(body), 20_000):
            self.wfile.write(body[start : start + 20_000])
            time.sleep(answer.pace)
        while answer.endless:
            self.wfile.write(b"x" * 10_000)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away is what many tests are about


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": made}))
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies, no hub and no hub cache but those that a test sets."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (*names, *(name.upper() for name in names), "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


def weights_file(seed: int = 0, size: int = 300_000) -> bytes:
    """Return a safetensors file of random numbers."""
    numbers = np.random.default_rng(seed).standard_normal(size // 4, np.float32)
    return save({"numbers": numbers})


def clipseg_file(seed: int = 0) -> bytes:
    """Return a file of 300 kB with the parameters by which the smallest CLIPSeg is told, and random numbers."""
    shapes = {"decoder.film_mul.weight": (16, 512), "decoder.reduces.0.weight": (16, 4175)}
    rng = np.random.default_rng(seed)
    return save({name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()})


@pytest.fixture
def content() -> bytes:
    return weights_file()


def spec_of(*sources: WeightsSource, key: str = "toy", licence: str = "BSD-3-Clause") -> ModelSpec:
    """Return the spec of a model that lies at `sources`."""
    accepts = frozenset({PromptKind.POINTS})
    return ModelSpec(key, "Toy", "Test", licence, accepts, sources[0], "none:none", alternatives=tuple(sources[1:]))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
