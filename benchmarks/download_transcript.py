"""What a terminal shows of a download that breaks, is stopped, goes on and is verified.

A server on this machine stands for the publisher, through ZEROSEG_MIRROR. It cuts the first connection and is slow
enough to be interrupted. The file is the official LiteMedSAM checkpoint in ../shared/weights, its sha256 is checked.

    python benchmarks/download_transcript.py
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

FILE = Path(__file__).parents[2] / "shared" / "weights" / "lite_medsam.pth"
KEY = "lite_medsam"
BYTES_A_SECOND = 16_000_000
BREAK_AT = 8_000_000
STOP_AT = 22_000_000


class Publisher(BaseHTTPRequestHandler):
    """Serves one file with ranges; its first connection breaks."""

    content = b""
    etag = ""
    log: ClassVar[list[str]] = []
    breaks = 1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind, wanted = type(self), self.headers.get("Range", "")
        begin = int(re.sub(r"\D", "", wanted) or 0) if self.headers.get("If-Range", kind.etag) == kind.etag else 0
        end = len(kind.content)
        if kind.breaks:
            kind.breaks, end = kind.breaks - 1, BREAK_AT
        kind.log.append(f"GET {self.path}" + (f"  Range: {wanted}  If-Range: {kind.etag}" if wanted else ""))
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(kind.content) - 1}/{len(kind.content)}")
        self.send_header("Content-Length", str(len(kind.content) - begin))
        self.send_header("ETag", kind.etag)
        self.end_headers()
        piece = BYTES_A_SECOND // 50
        for start in range(begin, end, piece):
            self.wfile.write(kind.content[start : min(start + piece, end)])
            time.sleep(1 / 50)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # a client that was stopped


class Terminal:
    """Runs `zeroseg` and prints what a reader would see, with the folder's name shortened."""

    def __init__(self, folder: str, url: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "ZEROSEG_DATA_DIR": folder, "ZEROSEG_MIRROR": url}

    def run(self, *arguments: str, stop_at: int = 0) -> None:
        print(f"$ zeroseg {' '.join(arguments)}")
        child = subprocess.Popen(
            [sys.executable, "-m", "napari_zeroseg", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )
        part = Path(self._folder) / "models" / KEY / f".{FILE.name}.part"
        while stop_at and child.poll() is None and not (part.exists() and part.stat().st_size > stop_at):
            time.sleep(0.01)
        if stop_at:
            child.send_signal(signal.SIGINT)
        said, _ = child.communicate()
        print(("^C\n" if stop_at else "") + re.sub(r":\d{4,5}(?=/)", "", said.replace(self._folder, "~/zeroseg")))


def main() -> None:
    if not FILE.is_file():
        raise SystemExit(f"{FILE} is not here: this script needs the shared folder beside the checkout.")
    Publisher.content = FILE.read_bytes()
    Publisher.etag = f'"{hashlib.sha256(Publisher.content).hexdigest()[:12]}"'
    server = Server(("127.0.0.1", 0), Publisher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(folder, f"http://127.0.0.1:{server.server_port}")
        terminal.run("download", KEY)
        terminal.run("download", KEY, "--accept-licence", stop_at=STOP_AT)
        terminal.run("download", KEY, "--accept-licence")
        terminal.run("verify", KEY)
    server.shutdown()
    print("What the server was asked:")
    print("\n".join(f"  {line}" for line in Publisher.log))


if __name__ == "__main__":
    main()
