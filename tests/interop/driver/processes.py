"""Processes that end with us.

INVARIANT: each one leads a process group of its own, and the group is killed when its owner is done with it or we end.
"""

import os
import queue
import re
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path

READY_WITHIN_S = 30
DONE_WITHIN_S = 90
GONE_WITHIN_S = 5
# Lines of it in a report.
SAID = 40

_running: set["Service"] = set()
# The groups of `finish`, and whether any more may be started.
_finishing: set[int] = set()
_over = threading.Event()


class Failed(Exception):
    """A process did not do what it was started for."""


class Service:
    """A process that runs until it is stopped; what it says is kept for the report of a failure."""

    # How many of its last lines are kept; None keeps all.
    KEPT: int | None = SAID

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL) -> None:
        self.name = " ".join(Path(word).name for word in command[:3])
        self.tail: deque[str] = deque(maxlen=self.KEPT)
        self._lines: queue.Queue[str | None] = queue.Queue()
        _check_not_over()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _running.add(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits for a line that matches, and for nothing else."""
        while True:
            try:
                line = self._lines.get(timeout=READY_WITHIN_S)
            except queue.Empty:
                raise Failed(f"{self.name} said nothing like `{pattern}` in {READY_WITHIN_S} s:\n{self.said()}") from None
            if line is None:
                raise Failed(f"{self.name} ended before it said `{pattern}`:\n{self.said()}")
            if found := re.search(pattern, line):
                return found

    def said(self) -> str:
        """The last lines it wrote."""
        return "".join(f"    | {line}" for line in list(self.tail)[-SAID:])

    def end(self) -> list[str]:
        """Makes it end, and answers the lines that are kept: with `KEPT` None all that it ever wrote."""
        self.stop()
        self._reader.join(GONE_WITHIN_S)
        return list(self.tail)

    def is_over(self) -> bool:
        """Whether it ended, though nobody stopped it."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Asks it to end, and makes it end."""
        _running.discard(self)
        _signal(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(GONE_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        # Also when it went by itself: it may have left children.
        _signal(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.tail.append(line)
            self._lines.put(line)
        self._lines.put(None)


class Dialogue(Service):
    """A process that is told something in a line and answers in one, which is a JSON object."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        super().__init__(command, cwd, env, stdin=subprocess.PIPE)

    def ask(self, line: str) -> str:
        """Says a line and waits for the answer."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        """Waits for a line that is an answer."""
        return self.wait_for(r"^\{.*\}$")[0]


def finish(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; one that hangs is killed with its children and reported."""
    _check_not_over()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    _finishing.add(process.pid)
    try:
        out, err = process.communicate(timeout=DONE_WITHIN_S)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise Failed(f"{Path(command[0]).name} was not done in {DONE_WITHIN_S} s:\n{out[-2000:]}{err[-2000:]}") from None
    except BaseException:
        _signal(process.pid, signal.SIGKILL)
        raise
    finally:
        _finishing.discard(process.pid)
    _signal(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def stop_all() -> None:
    """Stops what is still running, in every thread, and lets nothing more begin."""
    _over.set()
    for group in list(_finishing):
        _signal(group, signal.SIGKILL)
    for service in list(_running):
        service.stop()


def end_when_told() -> None:
    """Makes a request to end one that also reaches what other threads wait for."""

    def end(*_: object) -> None:
        stop_all()
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, end)


def _check_not_over() -> None:
    if _over.is_set():
        raise Failed("nothing more is started: the run ends")


def _signal(group: int, which: signal.Signals) -> None:
    try:
        os.killpg(group, which)
    except ProcessLookupError:
        pass
