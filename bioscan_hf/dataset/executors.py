"""Running one function on many tasks, by any `concurrent.futures` executor."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from ..files import MAIN_GUARD

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tasks that are submitted before the result of the first one is taken.
AHEAD = 256

#: Seconds to wait for a Dask scheduler, and then for its first worker.
DASK_TIMEOUT = 30


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 1, executor: Executor | None = None
) -> Generator[Result, None, None]:
    """Results of `work(task)`, in the order of the tasks.

    Closing the iterator, or an error, cancels the tasks that have not started and waits for those that have.

    Args:
        work: Function at the top level of a module; it, the tasks and the results must be picklable.
        workers: Processes to start if no executor is given; 1 runs everything in this process.
        executor: Runs the tasks, here or on other machines; it is not shut down. For Dask see `dask_executor`.

    Raises:
        RuntimeError: if one of the processes was ended.
    """
    if executor is None and workers <= 1:
        yield from map(work, tasks)
        return
    own: Any = nullcontext(executor)
    if executor is None:
        own = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    submitted: deque[Future[Result]] = deque()
    with own as pool:
        try:
            for task in tasks:
                submitted.append(pool.submit(work, task))
                if len(submitted) >= AHEAD:
                    yield submitted.popleft().result()
            while submitted:
                yield submitted.popleft().result()
        except BrokenProcessPool as error:
            text = f"One of {workers} processes was ended. Is there enough memory? {MAIN_GUARD}"
            raise RuntimeError(text) from error
        finally:
            wait([future for future in submitted if not future.cancel()])


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed; it would wait for tasks forever, and write beside another build."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """An executor that runs tasks on the workers of a Dask scheduler, such as at "tcp://10.0.0.1:8786".

    The task of a lost worker runs on another one.

    Raises:
        ConnectionError: if there is no scheduler at the address, or it has no workers.
        ModuleNotFoundError: without dask.distributed.
        RuntimeError: if a task has ended several workers.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import get_address_host_port
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Dask is not installed: pip install 'bioscan_hf[distributed]'.") from error
    try:
        socket.create_connection(get_address_host_port(address), DASK_TIMEOUT).close()  # a Client would go on trying
        client = Client(address, timeout=DASK_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"No Dask scheduler answers at {address!r} ({error}). Start `dask scheduler`, and give the address "
            f"that it prints, such as tcp://HOST:8786."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=DASK_TIMEOUT)
        except TimeoutError:
            raise ConnectionError(
                f"The Dask scheduler at {address!r} has no workers: start `dask worker {address}` on each machine."
            ) from None
        try:
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise RuntimeError(f"Dask workers were lost again and again ({error}). Have they enough memory?") from None
