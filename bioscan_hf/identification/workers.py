"""Blocks of reads by several threads, in their order."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(function: Callable[[_Item], _Result], items: Iterator[_Item], workers: int) -> Iterator[_Result]:
    """Results in the order of the items, by threads that share those of torch."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(max(threads // workers, 1),)
        ) as pool:
            waiting: deque[Future[_Result]] = deque()
            while True:
                for item in islice(items, workers + 1 - len(waiting)):
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    return
                result = waiting.popleft().result()
                _give_back()
                yield result
    finally:
        torch.set_num_threads(threads)


def _give_back() -> None:
    """Gives freed memory back to the system; glibc would keep some of every block."""
    with suppress(AttributeError, OSError, TypeError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)
