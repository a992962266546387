"""A process that reads files with libraries that a hostile file can bring down, such as HDF5 and GDCM.

It has limits on memory, time and the size of files that it may write (none), and its own output goes nowhere. When it
crashes, hangs or takes too much, the file is refused with one sentence and the next file gets a new process; otherwise one
process reads many files. Requests and answers are JSON and plain arrays over pipes: nothing that comes back is executed.

A reader is a function in an importable module, named "module:function". It takes keyword arguments that JSON can hold and
returns a dictionary of values that JSON can hold and of arrays.
"""

from __future__ import annotations

import atexit
import importlib
import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from sctlab_model import errors
from sctlab_model.errors import InputError, ProductError, ResourceError
from sctlab_model.limits import available_memory

DEFAULT_TIMEOUT_S = 300.0
DEFAULT_MEMORY_BYTES = 8 << 30
MAX_ANSWER_BYTES = 1 << 24  # of the JSON; arrays are bounded by the memory that is free
_LENGTH = struct.Struct("<Q")
_ENDED = "the program that reads such files ended on it"


class ReadingProcess:
    """One child process, started with the first file and again after a crash.

    Args:
        memory_bytes: Address space that it may take beyond what it has when it starts to read.
        timeout_s: Time for one file.
    """

    def __init__(self, *, memory_bytes: int = DEFAULT_MEMORY_BYTES, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.memory_bytes, self.timeout_s = memory_bytes, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def read(self, function: str, path: str | Path, **arguments: Any) -> dict[str, Any]:
        """Call a reader in the child.

        Args:
            function: "module:function"; its keyword argument `path` gets the path as text.
            path: The file or folder that is read, also for messages.
            arguments: Further keyword arguments.

        Raises:
            InputError: The reader refused the file, crashed or did not end in time.
            ResourceError: It needs more memory than it may take.
        """
        with self._lock:
            free = available_memory()
            memory = min(self.memory_bytes, free) if free is not None else self.memory_bytes
            request = {
                "function": function,
                "arguments": {"path": str(path), **arguments},
                "memory_bytes": memory,
                "seconds": math.ceil(self.timeout_s),
            }
            deadline = time.monotonic() + self.timeout_s
            try:
                process = self._running()
                assert process.stdin is not None
                _send(process.stdin, json.dumps(request).encode("ascii"))
                answer = _Answer(process, deadline, memory, path).receive()
            except TimeoutError:
                self.close()
                raise InputError(
                    path,
                    found=f"it could not be read within {self.timeout_s:g} s",
                    expected="a file that is read in moments",
                    advice="the file is damaged",
                ) from None
            except (BrokenPipeError, EOFError, ValueError, struct.error) as error:
                status = self.close()
                raise InputError(
                    path,
                    found=f"{_ENDED} ({_how_it_ended(status)})",
                    expected="a file that is whole",
                    advice="the file is damaged, or made to do harm",
                ) from error
            except BaseException:
                self.close()  # an interrupted answer would be taken for the next one's
                raise
        if "error" in answer:
            _raise(answer, path, memory)
        return answer

    def close(self) -> int | None:
        """End the child; returns how it ended by itself, None if it had to be ended."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return None
        status = None
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(0.5) if process.poll() is None else process.poll()
        if status is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        return status

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes belong to the parent's conversation.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from sctlab_model.io.child import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which ends the child
            )
        return self._process


class _Answer:
    """What comes back through the pipe, within the time that is left."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float, memory: int, path: str | Path) -> None:
        assert process.stdout is not None
        self.pipe, self.deadline, self.memory, self.path = process.stdout, deadline, memory, path

    def receive(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > MAX_ANSWER_BYTES:
            raise ValueError("an answer without end")
        answer = json.loads(bytes(self._take(length)))
        if not isinstance(answer, dict):
            raise ValueError("an answer of another kind")
        arrays = [(name, np.dtype(code), tuple(shape)) for name, code, shape in answer.pop("arrays", [])]
        total = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in arrays)
        if total > self.memory or any(dtype.kind not in "biuf" for _, dtype, _ in arrays):
            raise ValueError("arrays that are no numbers or too large")
        for name, dtype, shape in arrays:
            array = np.empty(shape, dtype)
            self._fill(memoryview(array.reshape(-1)).cast("B"))
            answer[name] = array
        return answer

    def _take(self, count: int) -> bytearray:
        buffer = bytearray(count)
        self._fill(memoryview(buffer))
        return buffer

    def _fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                raise TimeoutError
            count = self.pipe.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count


def _raise(answer: Mapping[str, Any], path: str | Path, memory: int) -> None:
    kind = answer["error"]
    if kind == "MemoryError":
        raise ResourceError(
            path,
            found=f"reading it needs more than the {memory / 1e9:.1f} GB of memory that it may take",
            advice="use a machine with more memory, or a smaller file",
        )
    known = getattr(errors, str(kind), None)
    if isinstance(known, type) and issubclass(known, ProductError):
        parts = {name: str(answer.get(name, "")) for name in ("found", "expected", "advice")}
        raise known(answer.get("where", path), **parts)
    reason = " ".join(str(answer.get("found", "")).split())[:160]
    raise InputError(
        path,
        found=f"can't be read ({reason})",
        expected="a complete file",
        advice="the file is damaged or of another type",
    )


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "with an answer that makes no sense"
    if status < 0:
        with suppress(ValueError):
            return f"by signal {signal.Signals(-status).name}"
    return f"with exit code {status}"


_shared = ReadingProcess()
atexit.register(_shared.close)


def read_in_child(function: str, path: str | Path, **arguments: Any) -> dict[str, Any]:
    """Call a reader in the child process that this process shares, see `ReadingProcess.read`."""
    return _shared.read(function, path, **arguments)


# --- in the child -------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until there are no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what libraries print, and what they would read, is nobody's
        if descriptor == 0:
            requests = os.fdopen(os.dup(0), "rb", buffering=0)
        os.dup2(nothing, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    while True:
        try:
            (length,) = _LENGTH.unpack(_receive(requests, _LENGTH.size))
            request = json.loads(_receive(requests, length))
        except EOFError:
            return
        arrays: dict[str, np.ndarray] = {}
        try:
            _limit(request)
            module, _, name = request["function"].partition(":")
            values = getattr(importlib.import_module(module), name)(**request["arguments"])
            arrays = {key: np.ascontiguousarray(v) for key, v in values.items() if isinstance(v, np.ndarray)}
            answer = {key: v for key, v in values.items() if key not in arrays}
            answer["arrays"] = [(key, a.dtype.str, a.shape) for key, a in arrays.items()]
        except ProductError as error:
            answer = {"error": type(error).__name__, "where": error.where, "found": error.found}
            answer |= {"expected": error.expected, "advice": error.advice}
        except MemoryError:
            answer = {"error": "MemoryError"}
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answer = {"error": "Exception", "found": lines[-1]}
        _send(answers, json.dumps(answer).encode("ascii"))
        for array in arrays.values():
            view = memoryview(array.reshape(-1)).cast("B") if array.size else memoryview(b"")
            while len(view):
                view = view[answers.write(view) :]


def _limit(request: Mapping[str, Any]) -> None:
    """Memory beyond what is taken now, and processor time beyond what was used (should the parent be gone)."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        most = pages * resource.getpagesize() + request["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + 2 * request["seconds"] + 1
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def _send(pipe: IO[bytes], text: bytes) -> None:
    view = memoryview(_LENGTH.pack(len(text)) + text)
    while len(view):
        view = view[pipe.write(view) :]


def _receive(pipe: BinaryIO, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = pipe.read(count - len(received))
        if not piece:
            raise EOFError
        received += piece
    return received
