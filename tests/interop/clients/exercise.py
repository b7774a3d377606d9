"""What every Python client does once it is connected; exercise.mjs is the same for TypeScript.

The job and the report are described in driver/clients.py.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, Awaitable, Callable


@dataclass
class Seen:
    """A tool's result, the same for both lines of the SDK."""

    text: str
    is_error: bool


@dataclass
class Connected:
    """How one SDK lists and calls, once connected."""

    revision: str
    server: str | None
    tools: Callable[[str | None], Awaitable[tuple[list[str], str | None]]]
    call: Callable[..., Awaitable[Seen]]
    error: type[Exception]


async def exercise(job: dict[str, Any], connected: Connected) -> dict[str, Any]:
    """Runs one job over an open connection and returns its report."""
    report: dict[str, Any] = {"revision": connected.revision, "server": connected.server, "calls": []}
    names: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await connected.tools(cursor)
        names += page
        if cursor is None:
            break
    for call in job["calls"]:
        done: dict[str, Any] = {"upstream": call["upstream"], "steps": [], "fault": None}
        report["calls"].append(done)
        for name, step in steps(call, names, connected, job["strict"]):
            try:
                await step()
            except Exception as error:
                done["fault"] = f"{name}: {describe(error)}"
                break
            done["steps"].append(name)
    return report


def steps(call: dict[str, Any], names: list[str], connected: Connected, strict: bool):
    """The steps of one call, in order; the first that raises ends them."""

    async def listed() -> None:
        check(call["tool"] in names, f"{call['tool']} is not among {', '.join(names)}")

    async def called() -> None:
        result = await connected.call(call["tool"], call["arguments"])
        check(not result.is_error and call["expect"] in result.text, f"expected {call['expect']}, got {result.text}")

    async def bad() -> None:
        result = await connected.call(call["tool"], call["bad"])
        check(result.is_error, f"expected isError, got {result.text}")

    async def unknown() -> None:
        try:
            result = await connected.call(call["unknown"], {})
        except connected.error as error:
            code = error.error.code
            check(code == -32602, f"expected the error -32602, got {code}: {describe(error)}")
            return
        # The specification wants the error; some servers are only good for a result that says so.
        check(not strict and result.is_error, f"expected the error -32602, got {result.text}")

    async def progress() -> None:
        wanted = call["progress"]
        seen: list[float] = []

        async def on_progress(value: float, _total: float | None, _message: str | None) -> None:
            seen.append(value)

        result = await connected.call(wanted["tool"], wanted["arguments"], on_progress)
        check(not result.is_error, result.text)
        rises = all(earlier < later for earlier, later in zip(seen, seen[1:]))
        check(len(seen) >= wanted["atLeast"] and rises, f"expected {wanted['atLeast']} rising steps, got {seen}")

    async def denied() -> None:
        # A refusal of the gateway must be something that a model can read, also for a tool that promises structured content.
        result = await connected.call(call["denied"]["tool"], call["denied"]["arguments"])
        check(result.is_error and result.text != "", f"expected a refusal with a text, got {result}")

    yield "list", listed
    yield "call", called
    yield "bad arguments", bad
    yield "unknown tool", unknown
    if call.get("progress"):
        yield "progress", progress
    if call.get("denied"):
        yield "denied", denied


def text_of(content: list[Any]) -> str:
    return "\n".join(getattr(block, "text", f"({block.type})") for block in content)


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def describe(error: BaseException) -> str:
    # Task groups wrap what went wrong, often several deep.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:600]


def main(run: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Runs the job of the command line and prints its report."""
    import anyio

    job = json.loads(sys.argv[1])
    try:
        report = anyio.run(run, job)
    except BaseException as error:
        report = {"revision": None, "server": None, "calls": [], "fault": describe(error)}
    print(json.dumps(report), flush=True)
