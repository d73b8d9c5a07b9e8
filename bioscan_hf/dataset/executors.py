"""Running one function on many tasks, by any `concurrent.futures` executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tasks that are submitted before the result of the first one is taken.
AHEAD = 256


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 1, executor: Executor | None = None
) -> Generator[Result, None, None]:
    """Results of `work(task)`, in the order of the tasks.

    Closing the iterator, or an error, cancels the tasks that have not started and waits for those that have.

    Args:
        work: Function at the top level of a module; it, the tasks and the results must be picklable.
        workers: Processes to start if no executor is given; 1 runs everything in this process.
        executor: Runs the tasks, here or on other machines; it is not shut down. For Dask:
            `dask.distributed.Client(address).get_executor()`.
    """
    if executor is None and workers <= 1:
        yield from map(work, tasks)
        return
    own: Any = nullcontext(executor) if executor else ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    submitted: deque[Future[Result]] = deque()
    with own as pool:
        try:
            for task in tasks:
                submitted.append(pool.submit(work, task))
                if len(submitted) >= AHEAD:
                    yield submitted.popleft().result()
            while submitted:
                yield submitted.popleft().result()
        finally:
            wait([future for future in submitted if not future.cancel()])
