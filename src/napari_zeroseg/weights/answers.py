"""What a server's answer, or its silence, means for a download: go on, try again, or a sentence for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from napari_zeroseg.errors import DownloadError
from napari_zeroseg.weights.sources import host_of

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that say "later"."""


class BrokenError(Exception):
    """Worth another try."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def total_of(response: requests.Response) -> int:
    """Bytes of the whole file, or 0 if the server does not say."""
    whole = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    if whole:
        return int(whole[1])
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return int(length) if length.isdecimal() and response.status_code == 200 and not encoded else 0


def hash_told(response: requests.Response) -> str:
    """Return the sha256 that a hub tells of a large file before it sends us on to its storage."""
    for answer in (*response.history, response):
        told = answer.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", told):
            return told
    return ""


def refuse_downgrade(response: requests.Response) -> None:
    """Raise if an encrypted address sent us on to one that is not."""
    addresses = [answer.url for answer in (*response.history, response)]
    if addresses[0].startswith("https:") and any(not address.startswith("https:") for address in addresses):
        raise DownloadError(
            f"{host_of(addresses[0])} sends us on to an address without encryption ({host_of(addresses[-1])}), which "
            "is refused: get the file with a browser and add it."
        )


def refusal(response: requests.Response, url: str, from_hub: bool) -> Exception:
    """Return the error for an answer that is no file."""
    status, host = response.status_code, host_of(url)
    if status in _AGAIN:
        wait = response.headers.get("Retry-After", "")
        return BrokenError(f"it answers {status}", min(float(wait), 60.0) if wait.isdecimal() else 0.0)
    if from_hub and (status == 401 or response.headers.get("X-Error-Code") == "RepoNotFound"):
        return DownloadError(
            f"{host} knows no such repository as that of {url}, or it is private: check its name, and set "
            "HF_TOKEN if it is yours."
        )
    if status in (401, 403, 407):
        return DownloadError(f"{host} does not give the file away ({status}): get it with a browser and add it.")
    if status in (404, 410):
        return DownloadError(f"{host} does not have the file ({status} for {url}): check the name or the mirror.")
    return DownloadError(f"{host} answers {status} {response.reason} for {url}: try again later.")


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what `requests` raises into a reason to try again, or into a sentence."""
    host = host_of(url)
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"A secure connection to {host} could not be made: behind a proxy that inspects traffic, set "
            "REQUESTS_CA_BUNDLE to its certificate."
        ) from error
    except requests.exceptions.ProxyError as error:
        raise BrokenError("the proxy named in the environment does not let us through") from error
    except requests.exceptions.Timeout as error:
        raise BrokenError("no answer in time") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise BrokenError("cut off") from error
    except requests.exceptions.ConnectionError as error:
        timed_out = "timed out" in str(error).lower()
        raise BrokenError("no answer in time" if timed_out else "no connection") from error
    except requests.exceptions.TooManyRedirects as error:
        raise DownloadError(f"{host} sends us from address to address without end: try again later.") from error
    except (requests.exceptions.RequestException, ValueError) as error:
        raise DownloadError(f"{url} cannot be fetched ({error}): check the address.") from error
