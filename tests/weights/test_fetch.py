"""One file over connections that break, servers that lie, disks that are full."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from napari_zeroseg.errors import CancelledError, DownloadError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.answers import refuse_downgrade
from napari_zeroseg.weights.fetch import CHUNK, Patience, Wanted, fetch, note_of

from .conftest import QUICK, Answer, digest, weights_file


@pytest.fixture
def part(tmp_path) -> Path:
    return tmp_path / ".file.part"


@pytest.fixture
def refused(part):
    def do(wanted: Wanted, kind: type[Exception] = DownloadError, patience: Patience = QUICK) -> str:
        with pytest.raises(kind) as caught:
            fetch(wanted, part, patience=patience)
        return str(caught.value)

    return do


def test_a_whole_file_with_its_progress(site, part, content):
    seen = []
    url = site.put("/file", content, Answer(pace=0.02))
    got = fetch(Wanted(url, digest(content), len(content)), part, progress=lambda *at: seen.append(at))
    assert part.read_bytes() == content
    assert (got.sha256, got.size, got.resumed_at) == (digest(content), len(content), 0)
    assert seen == sorted(seen)
    assert seen[-1] == (len(content), len(content))


def test_a_connection_that_breaks_is_taken_up_where_it_broke(site, part, content):
    url = site.put("/file", content, Answer(break_at=100_000), Answer(break_at=50_000), Answer(break_at=1))
    got = fetch(Wanted(url), part, patience=QUICK)
    assert part.read_bytes() == content
    assert got.sha256 == digest(content)
    begins = [int(text.removeprefix("bytes=").removesuffix("-") or 0) for text in site.ranges("/file")]
    assert begins == sorted(begins)
    assert begins[0] == 0
    assert 100_000 - CHUNK < begins[1] <= 100_000
    assert site.asked[1][1]["If-Range"].startswith('"')


def test_a_server_without_ranges_begins_anew(site, part, content):
    url = site.put("/file", content, Answer(break_at=100_000, ranges=False), Answer(ranges=False))
    fetch(Wanted(url, digest(content)), part, patience=QUICK)
    assert part.read_bytes() == content


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_between_two_parts_is_not_mixed(site, part, content, if_range):
    other = weights_file(seed=1)
    url = site.put("/file", content, Answer(break_at=100_000))
    with pytest.raises(DownloadError):
        fetch(Wanted(url), part, patience=Patience(retries=-1))
    assert 0 < part.stat().st_size <= 100_000
    site.put("/file", other, Answer(if_range=if_range))
    got = fetch(Wanted(url), part, patience=QUICK)
    assert part.read_bytes() == other
    assert got.sha256 == digest(other)


def test_a_file_that_became_shorter(site, part, content):
    url = site.put("/file", content, Answer(break_at=200_000))
    with pytest.raises(DownloadError):
        fetch(Wanted(url), part, patience=Patience(retries=-1))
    short = weights_file(seed=1, size=1000)
    site.put("/file", short, Answer(if_range=False))
    fetch(Wanted(url), part, patience=QUICK)
    assert part.read_bytes() == short


def test_foreign_bytes_in_a_part_are_found_by_the_hash(site, part, content):
    url = site.put("/file", content)
    part.write_bytes(b"?" * 1000)
    got = fetch(Wanted(url, digest(content), len(content)), part, patience=QUICK)
    assert part.read_bytes() == content
    assert got.resumed_at == 0
    assert site.ranges("/file") == ["bytes=1000-", ""]


def test_a_part_that_nobody_can_vouch_for_is_not_used(site, part, content):
    url = site.put("/file", content)
    part.write_bytes(content[:1000])
    fetch(Wanted(url), part, patience=QUICK)
    assert site.ranges("/file") == [""]
    assert part.read_bytes() == content


@pytest.mark.parametrize("note", ["", "[]", '{"url": 3}', "{"])
def test_a_damaged_note_is_no_note(site, part, content, note):
    url = site.put("/file", content)
    part.write_bytes(b"?" * 1000)
    note_of(part).write_text(note)
    fetch(Wanted(url), part, patience=QUICK)
    assert part.read_bytes() == content


@pytest.mark.parametrize("size_known", [True, False])
def test_a_part_that_was_whole_already(site, part, content, size_known):
    url = site.put("/file", content)
    fetch(Wanted(url), part)
    site.asked.clear()
    wanted = Wanted(url, digest(content), len(content) if size_known else 0)
    assert fetch(wanted, part, patience=QUICK).resumed_at == len(content)
    assert part.read_bytes() == content
    assert len(site.asked) == (0 if size_known else 1)


def test_a_part_that_is_too_long(site, part, content):
    url = site.put("/file", content)
    part.write_bytes(content + b"more")
    fetch(Wanted(url, digest(content), len(content)), part, patience=QUICK)
    assert part.read_bytes() == content


class TestLies:
    def test_a_length_that_is_too_large(self, site, part, content, refused):
        url = site.put("/file", content, *[Answer(claim=len(content) + 5, ranges=False)] * 9)
        said = refused(Wanted(url))
        assert "of 300,085 bytes (cut off), again and again" in said
        assert "What has come is kept: try again later" in said
        assert content.startswith(part.read_bytes())

    def test_a_length_that_is_too_small(self, site, part, content, refused):
        url = site.put("/file", content, Answer(claim=1000))
        assert "offers 1,000 bytes where 300,080 were expected" in refused(Wanted(url, size=len(content)))
        site.put("/file", content, Answer(claim=1000))
        assert "sent a file with a wrong hash" in refused(Wanted(url, digest(content)))

    def test_another_file_of_the_same_length(self, site, part, content, refused):
        url = site.put("/file", weights_file(seed=1))
        said = refused(Wanted(url, digest(content), len(content)))
        assert said.startswith("127.0.0.1 sent a file with a wrong hash (sha256 ")
        assert "it has been removed" in said
        assert not part.exists()
        assert not note_of(part).exists()

    def test_no_length(self, site, part, content):
        url = site.put("/file", content, Answer(length=False))
        fetch(Wanted(url, digest(content)), part)
        assert part.read_bytes() == content

    def test_no_length_and_cut_short(self, site, part, content):
        url = site.put("/file", content, Answer(length=False, break_at=1000))
        fetch(Wanted(url, size=len(content)), part, patience=QUICK)
        assert part.read_bytes() == content

    def test_a_body_without_end(self, site, part, content, refused):
        url = site.put("/file", content, Answer(length=False, endless=True))
        assert "bytes where 300,080 were expected" in refused(Wanted(url, size=len(content)))
        assert not part.exists()

    def test_a_length_beyond_every_disk(self, site, part, content, refused):
        url = site.put("/file", content, Answer(claim=10**17))
        assert "There is no room for the file: 100000000.0 GB are missing" in refused(Wanted(url), WriteError)


class TestAnswers:
    def test_redirects(self, site, part, content):
        site.put("/there", content)
        url = site.put("/here", b"", Answer(status=302, headers={"Location": "/further"}))
        site.put("/further", b"", Answer(status=307, headers={"Location": f"{site.url}/there"}))
        fetch(Wanted(url, digest(content)), part)
        assert part.read_bytes() == content

    def test_redirects_without_end(self, site, refused):
        url = site.put("/here", b"", *[Answer(status=302, headers={"Location": "/here"})] * 50)
        assert "from address to address without end" in refused(Wanted(url))

    def test_an_encrypted_address_that_leads_to_a_plain_one(self):
        first, last = requests.Response(), requests.Response()
        first.url, last.url = "https://good.org/file", "http://bad.org/file"
        last.history = [first]
        with pytest.raises(DownloadError, match=r"good\.org sends us on to an address without encryption \(bad\.org\)"):
            refuse_downgrade(last)

    @pytest.mark.parametrize(
        ("status", "headers", "sentence"),
        [
            (404, {}, "does not have the file (404 for"),
            (410, {}, "does not have the file"),
            (403, {}, "does not give the file away (403)"),
            (401, {}, "does not give the file away (401)"),
            (418, {}, "answers 418"),
        ],
    )
    def test_refusals_are_final(self, site, refused, status, headers, sentence):
        url = site.put("/file", b"x", Answer(status=status, headers=headers))
        assert sentence in refused(Wanted(url))
        assert len(site.asked) == 1

    @pytest.mark.parametrize("status", [401, 404])
    def test_a_hub_that_knows_no_such_repository(self, site, refused, status):
        url = site.put("/a/b", b"x", Answer(status=status, headers={"X-Error-Code": "RepoNotFound"}))
        assert "knows no such repository" in refused(Wanted(url, from_hub=True))

    def test_a_server_in_trouble_is_asked_again(self, site, part, content):
        url = site.put("/file", content, Answer(status=500), Answer(status=503, headers={"Retry-After": "1"}))
        begin = time.monotonic()
        fetch(Wanted(url), part, patience=QUICK)
        assert part.read_bytes() == content
        assert time.monotonic() - begin > 1

    def test_a_server_that_stays_in_trouble(self, site, refused, content):
        url = site.put("/file", content, *[Answer(status=502)] * 9)
        assert "cannot be reached (it answers 502)" in refused(Wanted(url))


class TestTheNetwork:
    def test_a_server_that_says_nothing(self, site, refused, content):
        url = site.put("/file", content, *[Answer(delay=3)] * 9)
        assert "cannot be reached (no answer in time)" in refused(Wanted(url), patience=Patience(1, 0.2, 1, 0.01))

    def test_a_server_that_falls_silent_in_the_middle(self, site, part, content):
        url = site.put("/file", content, Answer(pace=0.5))
        fetch(Wanted(url), part, patience=Patience(1, 0.3, 3, 0.01))
        assert part.read_bytes() == content
        assert len(site.asked) > 1

    def test_a_slow_server_is_waited_for(self, site, part, content):
        url = site.put("/file", content, Answer(pace=0.05))
        fetch(Wanted(url), part, patience=Patience(1, 1, 0, 0.01))
        assert part.read_bytes() == content
        assert len(site.asked) == 1

    def test_nobody_listens(self, refused):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        assert "127.0.0.1 cannot be reached (no connection): look at the network" in refused(
            Wanted(f"http://127.0.0.1:{port}/file")
        )

    def test_no_encryption_where_it_should_be(self, site, refused):
        url = site.put("/file", b"x").replace("http:", "https:")
        assert "A secure connection to 127.0.0.1 could not be made" in refused(Wanted(url))

    @pytest.mark.parametrize("url", ["nonsense", "ftp://server/file", "http://"])
    def test_addresses_that_are_none(self, refused, url):
        assert "cannot be fetched" in refused(Wanted(url))

    def test_a_proxy_from_the_environment(self, site, part, content, monkeypatch):
        site.put("/models/file", content)
        monkeypatch.setenv("HTTP_PROXY", site.url)
        fetch(Wanted("http://server.invalid/models/file", digest(content)), part)
        assert part.read_bytes() == content

    def test_a_proxy_that_is_not_there(self, refused, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        assert "proxy named in the environment" in refused(Wanted("http://server.invalid/file"))


class TestStopping:
    def test_cancel_and_resume(self, site, part, content):
        url = site.put("/file", content, Answer(pace=0.1))
        token = CancelToken()

        def stop(done: int, _: int) -> None:
            if done > 50_000:
                token.cancel()

        with pytest.raises(CancelledError):
            fetch(Wanted(url), part, progress=stop, cancel=token)
        kept = part.stat().st_size
        assert 50_000 < kept < len(content)
        assert json.loads(note_of(part).read_text())["total"] == len(content)
        got = fetch(Wanted(url), part)
        assert got.resumed_at == kept
        assert site.ranges("/file")[-1] == f"bytes={kept}-"
        assert part.read_bytes() == content

    def test_cancelled_while_it_waits_to_try_again(self, site, part, content):
        url = site.put("/file", content, Answer(status=503, headers={"Retry-After": "30"}))
        token = CancelToken()
        threading.Timer(0.3, token.cancel).start()
        begin = time.monotonic()
        with pytest.raises(CancelledError):
            fetch(Wanted(url), part, cancel=token, patience=QUICK)
        assert time.monotonic() - begin < 5


FULL = """
import resource, sys
from pathlib import Path
from napari_zeroseg.errors import WriteError
from napari_zeroseg.weights.fetch import Wanted, fetch
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    print(fetch(Wanted(sys.argv[1]), Path(sys.argv[2])).resumed_at)
except WriteError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit there that a process could set itself")
def test_a_disk_that_becomes_full(site, part, content):
    url = site.put("/file", content)

    def run(how: str) -> str:
        command = [sys.executable, "-c", FULL, url, str(part), how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "could not be written to" in run("full")
    assert part.stat().st_size == 100_000
    assert run("empty").strip() == "100000"
    assert part.read_bytes() == content
