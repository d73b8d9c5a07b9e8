"""Requests that are repeated after a fault of the network, with pauses, and errors that name the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

from .local_files import FileState

Answer = TypeVar("Answer")

#: Seconds without a byte after which a connection counts as interrupted.
TIMEOUT = 60.0
#: Longest pause between attempts, in seconds.
LONGEST_PAUSE = 120.0
#: HTTP status codes below 500 that are tried again; those from 500 on are as well.
TRANSIENT = (408, 425, 429)


class DownloadError(OSError):
    """An incomplete download; `states` holds the state of every file, if known."""

    def __init__(self, message: str, states: list[FileState] | None = None):
        super().__init__(message)
        self.states = states or []


class NetworkFault(Exception):
    """An attempt that failed for the network or the server, and may succeed `after` some seconds."""

    def __init__(self, message: str, after: float = 0.0):
        super().__init__(message)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """How often, and after which pauses, a request is repeated."""

    retries: int  # consecutive attempts without progress before giving up, beyond the first
    pause: float  # seconds before the next attempt; doubled each time

    def wait(self, url: str, fault: NetworkFault, failures: int) -> None:
        """Pauses after consecutive failures; DownloadError, with the host, if there were too many."""
        if failures > self.retries:
            attempts = f"{failures} attempt{'s' if failures > 1 else ''} without progress"
            raise DownloadError(f"network fault at {_host(url)}: {url}: {fault}; gave up after {attempts}") from fault
        time.sleep(min(LONGEST_PAUSE, max(fault.after, self.pause * 2 ** max(0, failures - 1))))


def _host(url: str) -> str:
    """Host of an address, and the proxy through which it is reached, if any."""
    parts = urlsplit(url)
    host = parts.hostname or url
    proxy = urlsplit(getproxies().get(parts.scheme, ""))
    if not proxy.hostname or proxy_bypass(host):
        return host
    return f"{host} (by the proxy {proxy.hostname}{'' if proxy.port is None else f':{proxy.port}'})"


def open_url(request: Request) -> Any:
    """The answer to a request.

    Raises NetworkFault if there is none, or one that says to try again; HTTPError for any other that is not a success.
    """
    try:
        return urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code < 500 and error.code not in TRANSIENT:
            raise
        wait = error.headers.get("Retry-After", "")
        raise NetworkFault(
            f"it answers {error.code} {error.reason}", float(wait) if wait.isdecimal() else 0.0
        ) from error
    except (OSError, HTTPException) as error:
        raise network_fault(error) from error


def network_fault(error: Exception) -> NetworkFault:
    """A fault of the network: of TLS, routing, names, the proxy or the connection, or no answer in time."""
    reason = error.reason if isinstance(error, URLError) else error
    what = " ".join(str(reason).split())
    return NetworkFault(f"{type(reason).__name__}: {what}" if isinstance(reason, Exception) else what)


def patiently(ask: Callable[[], Answer], url: str, patience: Patience) -> Answer:
    """The answer of `ask`, which is repeated after a NetworkFault."""
    failures = 0
    while True:
        try:
            return ask()
        except NetworkFault as fault:
            failures += 1
            patience.wait(url, fault, failures)
