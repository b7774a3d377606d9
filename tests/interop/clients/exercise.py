"""What every Python client does once it is connected; exercise.mjs is the same for TypeScript.

The job and the report are described in driver/clients.py.
"""

import json
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable

import anyio

# A notification that has not come by then does not come.
TOLD_WITHIN_S = 5.0


@dataclass
class Seen:
    """A tool's result, the same for both lines of the SDK."""

    text: str
    is_error: bool
    # Its `_meta`.
    meta: dict[str, Any] | None = None


@dataclass
class More:
    """How one SDK does what only some servers have."""

    prompts: Callable[[], Awaitable[list[str]]]
    prompt: Callable[[str, dict[str, str]], Awaitable[str]]
    resources: Callable[[], Awaitable[list[str]]]
    templates: Callable[[], Awaitable[list[str]]]
    read: Callable[[str], Awaitable[tuple[list[str], str]]]
    complete: Callable[[dict[str, str], dict[str, str]], Awaitable[list[str]]]
    # Watches a resource (by `uri`) or a `list`; inside, `told` fills.
    watch: Callable[[dict[str, Any]], AbstractAsyncContextManager[None]]
    # Calls a tool that is to log.
    logged: Callable[[str], Awaitable[Seen]]


@dataclass
class Told:
    """What a client was told without asking, and what it was asked."""

    # (method, URI or None)
    notices: list[tuple[str, str | None]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    content: dict[str, Any] | None = None
    # What the forms said that it was shown, and the answer to them in place of `content`.
    messages: list[str] = field(default_factory=list)
    reply: dict[str, Any] | None = None

    def answer(self, method: str, message: str = "") -> dict[str, Any]:
        """The answer to a question; the adapter makes the SDK's type of it."""
        self.questions.append(method)
        self.messages.append(message)
        if method == "elicitation/create" and self.reply:
            return self.reply
        return {
            "elicitation/create": {"action": "accept", "content": self.content},
            "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "a sample"}, "model": "interop"},
            "roots/list": {"roots": [{"uri": "file:///interop", "name": "interop"}]},
        }[method]

    async def until(self, enough: Callable[[], bool], otherwise: str) -> None:
        with anyio.move_on_after(TOLD_WITHIN_S):
            while not enough():
                await anyio.sleep(0.02)
        check(enough(), f"{otherwise}; was told {self.notices}")


# Of this process, which runs one job.
told = Told()


@dataclass
class Connected:
    """How one SDK lists and calls, once connected."""

    revision: str
    server: str | None
    tools: Callable[[str | None], Awaitable[tuple[list[str], str | None]]]
    call: Callable[..., Awaitable[Seen]]
    error: type[Exception]
    more: More


async def exercise(job: dict[str, Any], connected: Connected) -> dict[str, Any]:
    """Runs one job over an open connection and returns its report."""
    if job.get("talks"):
        return await converse(connected)
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


async def converse(connected: Connected) -> dict[str, Any]:
    """Calls what each line of standard input says, over one connection, until there are no more; a line of JSON for each."""
    say = lambda answer: print(json.dumps(answer), flush=True)
    say({"revision": connected.revision, "server": connected.server})
    async for line in anyio.wrap_file(sys.stdin):
        asked = json.loads(line)
        told.messages.clear()
        told.reply = asked.get("answer")
        try:
            seen = await connected.call(asked["tool"], asked["arguments"])
            error = (seen.meta or {}).get("dev.doorward/error")
            say({"text": seen.text, "isError": seen.is_error, "error": error, "asked": told.messages})
        except connected.error as error:
            say({"fault": describe(error), "asked": told.messages})
    return {"revision": connected.revision, "calls": []}


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
    for more in call.get("more", []):
        yield more["step"], lambda more=more: MORE[more["step"]](more, connected)


# What only some servers have, and only some gateways pass on: the job names the steps.
async def prompt(step: dict[str, Any], connected: Connected) -> None:
    has(await connected.more.prompts(), step["name"])
    says(await connected.more.prompt(step["name"], step["arguments"]), step["expect"])


async def resource(step: dict[str, Any], connected: Connected) -> None:
    has(await connected.more.resources(), step["uri"])
    await read(step, connected)


async def template(step: dict[str, Any], connected: Connected) -> None:
    has(await connected.more.templates(), step["template"])
    await read(step, connected)


async def read(step: dict[str, Any], connected: Connected) -> None:
    uris, text = await connected.more.read(step["uri"])
    check(set(uris) == {step["uri"]}, f"asked for {step['uri']}, got {uris}")
    says(text, step["expect"])


async def completion(step: dict[str, Any], connected: Connected) -> None:
    has(await connected.more.complete(step["ref"], step["argument"]), step["expect"])


async def step_up(step: dict[str, Any], connected: Connected) -> None:
    result = await connected.call(step["tool"], step["arguments"])
    check(not result.is_error, result.text)
    says(result.text, step["expect"])


async def updated(step: dict[str, Any], connected: Connected) -> None:
    await watched(step, ("notifications/resources/updated", step["uri"]), connected)


async def changed(step: dict[str, Any], connected: Connected) -> None:
    await watched(step, (f"notifications/{step['list']}/list_changed", None), connected)


async def watched(step: dict[str, Any], notice: tuple[str, str | None], connected: Connected) -> None:
    async with connected.more.watch(step):
        told.notices.clear()
        await connected.call(step["tool"], {})
        await told.until(lambda: notice in told.notices, f"was not told {notice}")


async def log(step: dict[str, Any], connected: Connected) -> None:
    told.notices.clear()
    await connected.more.logged(step["tool"])
    logged = lambda: sum(method == "notifications/message" for method, _ in told.notices)
    await told.until(lambda: logged() >= step["atLeast"], f"expected {step['atLeast']} messages")


async def asking(step: dict[str, Any], connected: Connected) -> None:
    told.questions.clear()
    told.content = step["content"]
    result = await connected.call(step["tool"], step["arguments"])
    check(not result.is_error, result.text)
    has(told.questions, step["method"])
    says(result.text, step["expect"])


MORE = {
    "prompt": prompt,
    "resource": resource,
    "template": template,
    "completion": completion,
    "step up": step_up,
    "updated": updated,
    "changed": changed,
    "log": log,
    "elicitation": asking,
    "sampling": asking,
    "roots": asking,
}


def has(among: list[str], one: str) -> None:
    check(one in among, f"{one} is not among {', '.join(among)}")


def says(text: str, words: str) -> None:
    check(words in text, f"expected {words}, got {text}")


def text_of(content: list[Any]) -> str:
    return "\n".join(getattr(block, "text", f"({getattr(block, 'type', 'blob')})") for block in content)


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
    job = json.loads(sys.argv[1])
    try:
        report = anyio.run(run, job)
    except BaseException as error:
        report = {"revision": None, "server": None, "calls": [], "fault": describe(error)}
    print(json.dumps(report), flush=True)
