"""Call a function in child processes, so that a crash or an endless loop ends only a child process."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, Self, TypeVar

import torch

_PR_SET_PDEATHSIG = 1
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class ChildDiedError(Exception):
    """A child process did not return a result: a signal ended it, it exited, or it took too long."""


class ChildProcesses(Generic[Argument, Result]):
    """A function that is called in forked child processes, which inherit the objects of this process without pickling.

    A child process is started when it is needed, and restarted after it dies. If this process cannot be forked safely
    (on other systems than Linux, or with an initialized GPU), the function is called in this process.

    Args:
        function: The function of one argument. The argument and the result must be picklable.
        count: The number of children.
        seconds: Time limit of a call; None means no limit.
        single_use: Use a new child for each call.

    Example:
        >>> with ChildProcesses(os._exit) as leave:
        ...     leave(3)
        Traceback (most recent call last):
        forgather_core.runtime.child_process.ChildDiedError: the process exited with code 3
    """

    def __init__(
        self,
        function: Callable[[Argument], Result],
        *,
        count: int = 1,
        seconds: float | None = None,
        single_use: bool = False,
    ) -> None:
        self._function, self._seconds, self._single_use = function, seconds, single_use
        self._children = [_Child(function) for _ in range(count)]

    def __call__(self, argument: Argument) -> Result:
        """Call the function.

        Raises:
            ChildDiedError: The child process did not return.
            Exception: The exception that the function raised.
        """
        ((_, result),) = self.map([argument])
        if isinstance(result, ChildDiedError):
            raise result
        return result

    def map(self, arguments: Iterable[Argument]) -> Iterator[tuple[Argument, Result | ChildDiedError]]:
        """Yield each argument and its result in order. The result is a ChildDiedError if the child process died.

        Raises:
            Exception: The exception that the function raised.
        """
        done, following = dict[int, tuple[Argument, Result | ChildDiedError]](), 0
        for number, argument, result in self._completed(arguments):
            done[number] = argument, result
            while following in done:
                yield done.pop(following)
                following += 1

    def as_completed(self, arguments: Iterable[Argument]) -> Iterator[tuple[Argument, Result | ChildDiedError]]:
        """Yield each argument and its result when the call ends; the next argument is taken when a child is free.

        Raises:
            Exception: The exception that the function raised.
        """
        for _, argument, result in self._completed(arguments):
            yield argument, result

    def _completed(self, arguments: Iterable[Argument]) -> Iterator[tuple[int, Argument, Result | ChildDiedError]]:
        waiting = enumerate(arguments)
        if not can_fork():
            for number, argument in waiting:
                yield number, argument, self._function(argument)
            return
        idle, busy = deque(self._children), dict[Any, tuple[_Child, int, Argument, float]]()
        try:
            while True:
                while idle and (following := next(waiting, None)) is not None:
                    child, (number, argument) = idle.popleft(), following
                    limit = time.monotonic() + (self._seconds or float("inf"))
                    busy[child.send(argument)] = child, number, argument, limit
                if not busy:
                    return
                soonest = min(busy, key=lambda connection: busy[connection][3])
                seconds = None if self._seconds is None else max(busy[soonest][3] - time.monotonic(), 0)
                ready = wait(list(busy), seconds)
                for connection in ready or [soonest]:
                    child, number, argument, _ = busy.pop(connection)
                    result = self._received(child, in_time=bool(ready))
                    idle.append(child)
                    yield number, argument, result
        finally:  # after an exception, results of the other children must not be returned by later calls
            for child, *_ in busy.values():
                child.kill("is no longer needed")

    def _received(self, child: _Child, *, in_time: bool) -> Any:
        """Return the result of a child, or a ChildDiedError if its time is over. Raises what the function raised."""
        found = child.receive() if in_time else child.kill(f"took more than {self._seconds:g} s")
        if self._single_use:
            child.kill("is no longer needed")
        return found

    def close(self) -> None:
        """End the child processes."""
        for child in self._children:
            child.kill("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def can_fork() -> bool:
    """Return whether this process can be forked safely: only on Linux, and only before CUDA is initialized."""
    return sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


class _Child:
    """A child process that calls a function for each argument that it receives."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._process: Any = None
        self._connection: Any = None

    def send(self, argument: Any) -> Connection:
        """Call the function in the child, and return the connection that receives the result."""
        if self._process is not None and not self._process.is_alive():
            self.kill("")
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._function, other, self._connection, os.getpid()))
            with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns that other threads are not forked
                self._process.start()
            other.close()
        self._connection.send(argument)
        found: Connection = self._connection
        return found

    def receive(self) -> Any:
        """Return the result, or a ChildDiedError. Raises the exception that the function raised."""
        try:
            raised, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return self.kill(_exit_reason(self._process.exitcode))
        if raised:
            raise value
        return value

    def kill(self, reason: str) -> ChildDiedError:
        """End the child, and return a ChildDiedError with the reason."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = self._connection = None
        return ChildDiedError(f"the process {reason}")


def _serve(function: Callable[[Any], Any], connection: Any, parent_connection: Any, parent: int) -> None:
    gc.freeze()  # collections leave the parent's objects, whose memory is shared, alone
    parent_connection.close()  # otherwise the end of the parent would not close the pipe
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    faulthandler.disable()  # a crash is reported in one line
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tokenizers would warn about the fork
    with suppress(EOFError, ConnectionError):
        while True:
            argument = connection.recv()
            try:
                reply = ForkingPickler.dumps((False, function(argument)))
            except (Exception, KeyboardInterrupt) as error:
                reply = ForkingPickler.dumps((True, _picklable(error)))
            connection.send_bytes(reply)


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even if it is computing; Linux only, as forks are."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)


def _picklable(error: BaseException) -> BaseException:
    """Return an exception with its traceback as a note; a RuntimeError instead of one that cannot be sent."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"In the child process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    return error


def _exit_reason(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")
