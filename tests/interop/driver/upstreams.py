"""The servers behind the gateway: how to start each, how a manifest names it, what to call on it."""

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

from . import places
from .clients import LEGACY, MODERN
from .processes import Failed, Service, finish

# What is not among `all_upstreams`, or not taken everywhere, and why.
LEFT_OUT = {
    "log of `tells` where agents share the gateway": "on pipes a log message names no call, and could be another agent's",
    "updated, changed, log of `asks`": "on pipes a server that may ask runs once more for calls; `tells` is the same server without questions",
}

QUESTIONS = frozenset({"elicitation", "sampling", "roots"})

# `doorward stdio` starts every server at once, for each client anew: the first calls wait for the slowest.
DEFAULTS = {"connect_grace_ms": 30_000}
# Of the servers over stdio that ask and tell: one from before the newest handshake.
OLDER = "2025-06-18"
HELLO = "hello from the file system\n"
BOTH = frozenset({LEGACY, MODERN})
# The HTTP of 2024-11-05.
SSE = "http+sse"


def _server(name: str) -> str:
    return str(places.HERE / "servers" / name)


# Servers of ours on other people's packages; each takes `stdio` or `http`.
MODERN_TS = [places.NODE, _server("modern.mjs")]
MODERN_PY = [places.PY_NEW, _server("modern.py")]
FAST = [places.PY_FAST, _server("fast.py")]

FAST_HAS = [
    {"step": "prompt", "name": "greeting", "arguments": {"name": "Ada"}, "expect": "hello to Ada"},
    {"step": "resource", "uri": "interop://motto", "expect": "Nobody here"},
    {"step": "template", "template": "interop://squares/{number}", "uri": "interop://squares/7", "expect": "7 squared is 49"},
]


@dataclass
class Upstream:
    """One server. It has a command (stdio) or, once started, a url (HTTP, or HTTP+SSE: `over` tells)."""

    name: str
    eras: frozenset[str]
    over: str
    tool: str
    arguments: dict[str, Any]
    expect: str
    bad: dict[str, Any]
    progress: dict[str, Any] | None = None
    denied: dict[str, Any] | None = None
    more: list[dict[str, Any]] = field(default_factory=list)
    # Scopes that a token needs for a tool.
    scopes: dict[str, str] = field(default_factory=dict)
    # The steps that are left out where several agents use it.
    unshared: frozenset[str] = frozenset()
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    # What it writes and no argument names.
    writes: list[str] = field(default_factory=list)
    url: str = ""

    def call(self, prefix: str, behind_gateway: bool, shared: bool, lacks: frozenset[str]) -> dict[str, Any]:
        """This server's part of a job; `shared` where other agents use the same gateway, without what the client lacks."""
        left_out = lacks | (self.unshared if shared else frozenset())
        named = lambda call: call and {**call, "tool": prefix + call["tool"]}
        return {
            "upstream": self.name,
            "tool": prefix + self.tool,
            "arguments": self.arguments,
            "expect": self.expect,
            "bad": self.bad,
            "unknown": f"{prefix}no_such_tool",
            "progress": None if "progress" in lacks else named(self.progress),
            "denied": named(self.denied) if behind_gateway and "denied" not in lacks else None,
            "more": [_public(step, prefix) for step in self.more if step["step"] not in left_out],
        }

    def manifest(self) -> str:
        """Its tool manifest. JSON is YAML, and needs no quoting rules."""
        if self.url:
            transport: dict[str, Any] = {"http": {"url": self.url}}
        elif self.command[0] == "self":
            transport = {"stdio": {"command": "self"}}
        else:
            # Servers of ours find the packages of others through `packages.mjs`; everybody else's work with the default.
            ours = any(str(word).startswith(str(places.HERE)) for word in self.command)
            sandbox = {"read": [str(places.HERE), str(places.INSTALLED / "node")] if ours else [], "write": self.writes}
            granted = {"sandbox": sandbox} if any(sandbox.values()) else {}
            transport = {"stdio": {"command": self.command[0], "args": self.command[1:], "env": self.env, **granted}}
        called = {call["tool"] for call in (self.progress, self.denied, *self.more) if call and "tool" in call} | {self.tool}
        scope = lambda tool: {"scope": self.scopes[tool]} if tool in self.scopes else {}
        tools = {tool: {"tier": "read", **scope(tool)} for tool in sorted(called)}
        may_ask = sorted({step["step"] for step in self.more} & QUESTIONS)
        asks = {"may_ask": may_ask} if may_ask else {}
        manifest = {"upstream": self.name, "transport": transport, "tools": tools, "defaults": DEFAULTS, **asks}
        return json.dumps(manifest, indent=2)


def _public(step: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A step with the names and addresses that a client sees for them."""
    if not prefix:
        return step
    address = lambda uri: f"dw+{prefix.removesuffix('__')}+{uri}"
    public = {"tool": lambda tool: prefix + tool, "name": lambda name: prefix + name, "uri": address, "template": address}
    step = {key: public[key](value) if key in public else value for key, value in step.items()}
    return {**step, "ref": _public(step["ref"], prefix)} if "ref" in step else step


def all_upstreams(work: Path) -> tuple[list[Upstream], list[Service]]:
    """Every upstream, the HTTP ones started."""
    files = work / "files"
    files.mkdir()
    (files / "hello.txt").write_text(HELLO)
    everything, streamable = everything_over_http(work)
    old_everything, sse = _everything("sse", work)
    modern_ts, modern_py, fast = (Service([*command, "http"], work) for command in (MODERN_TS, MODERN_PY, FAST))
    asks = Service([places.NODE, _server("conformance.mjs"), "http", "--era", "modern"], work)
    older = [places.NODE, _server("conformance.mjs"), "stdio", "--era", "legacy", "--revision", OLDER]
    upstreams = [
        _sums("everything", "stdio", command=[places.NODE, places.EVERYTHING, "stdio"]),
        everything,
        old_everything,
        filesystem(files),
        _memory(work),
        _repository(work),
        _time(),
        _adds("modern-ts", frozenset({MODERN}), "stdio", command=[*MODERN_TS, "stdio"]),
        _adds("modern-ts-http", frozenset({MODERN}), "http", url=_address(modern_ts)),
        _adds("modern-py", BOTH, "stdio", command=[*MODERN_PY, "stdio"]),
        _adds("modern-py-http", BOTH, "http", url=_address(modern_py)),
        _adds("fast", BOTH, "stdio", FAST_HAS, command=[*FAST, "stdio"]),
        _adds("fast-http", BOTH, "http", FAST_HAS, url=_address(fast)),
        _notes(),
        _offers("asks", OLDER, "stdio", _questions(), command=older),
        _offers("tells", OLDER, "stdio", _notices(), unshared=frozenset({"log"}), command=older),
        _offers("asks-http", MODERN, "http", _notices() + _questions(), url=_address(asks)),
    ]
    return upstreams, [streamable, sse, modern_ts, modern_py, fast, asks]


def filesystem(files: Path) -> Upstream:
    """The file server, allowed into one folder that has a `hello.txt`."""
    path = str(files / "hello.txt")
    call = {"tool": "read_text_file", "arguments": {"path": path}, "expect": HELLO.strip(), "bad": {"path": 7}}
    return Upstream("filesystem", frozenset({LEGACY}), "stdio", **call, command=[places.NODE, places.FILESYSTEM, str(files)])


def _memory(work: Path) -> Upstream:
    """The memory server, with one thing to remember."""
    remembered = work / "memory.jsonl"
    remembered.write_text(json.dumps({"type": "entity", "name": "Ada", "entityType": "person", "observations": ["wrote a program"]}))
    call = {"tool": "search_nodes", "arguments": {"query": "Ada"}, "expect": "wrote a program", "bad": {"query": 7}}
    return Upstream(
        "memory", frozenset({LEGACY}), "stdio", **call, command=[places.NODE, places.MEMORY], env={"MEMORY_FILE_PATH": str(remembered)},
        writes=[str(remembered)],
    )


def _repository(work: Path) -> Upstream:
    """The git server, on a repository with one commit."""
    at = work / "repository"
    author = ["-c", "user.name=interop", "-c", "user.email=interop@localhost"]
    for words in (["init", "--quiet", str(at)], ["-C", str(at), *author, "commit", "--quiet", "--allow-empty", "-m", "first words"]):
        done = finish(["git", *words], work)
        if done.returncode != 0:
            raise Failed(f"git {' '.join(words)}: {done.stderr}")
    call = {"tool": "git_log", "arguments": {"repo_path": str(at)}, "expect": "first words", "bad": {"repo_path": 7}}
    return Upstream("git", BOTH, "stdio", **call, command=[places.GIT, "--repository", str(at)])


def _time() -> Upstream:
    # A zone that never changes its clocks.
    noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Kolkata"}
    call = {"tool": "convert_time", "arguments": noon, "expect": "T17:30:00+05:30", "bad": {**noon, "time": 12}}
    return Upstream("time", BOTH, "stdio", **call, command=[places.TIME, "--local-timezone", "UTC"])


def _sums(name: str, over: str, **where: Any) -> Upstream:
    slow = {"tool": "trigger-long-running-operation", "arguments": {"duration": 0.4, "steps": 4}, "atLeast": 2}
    denied = {"tool": "get-structured-content", "arguments": {"location": "New York"}}
    call = {"tool": "get-sum", "arguments": {"a": 2, "b": 40}, "expect": "42", "bad": {"a": "two", "b": 40}}
    document = "demo://resource/static/document/features.md"
    dynamic = "demo://resource/dynamic/text/"
    more = [
        {"step": "prompt", "name": "args-prompt", "arguments": {"city": "Paris"}, "expect": "weather in Paris"},
        {"step": "resource", "uri": document, "expect": "Everything Server"},
        {"step": "template", "template": dynamic + "{resourceId}", "uri": dynamic + "7", "expect": "Resource 7"},
        _completes("completable-prompt", "department", "Eng", "Engineering"),
    ]
    return Upstream(name, frozenset({LEGACY}), over, **call, progress=slow, denied=denied, more=more, **where)


def _adds(name: str, eras: frozenset[str], over: str, more: Sequence[dict[str, Any]] = (), **where: Any) -> Upstream:
    progress = {"tool": "add", "arguments": {"a": 1, "b": 1}, "atLeast": 2}
    call = {"tool": "add", "arguments": {"a": 2, "b": 40}, "expect": "42", "bad": {"a": "two", "b": 40}}
    return Upstream(name, eras, over, **call, progress=progress, more=list(more), **where)


def _notes() -> Upstream:
    slow = {"tool": "index_notes", "arguments": {"steps": 3, "delay_ms": 50}, "atLeast": 2}
    call = {"tool": "read_note", "arguments": {"name": "welcome"}, "expect": "Welcome", "bad": {"name": "../welcome"}}
    return Upstream("demo", BOTH, "stdio", **call, progress=slow, command=["self"])


def guarded_notes() -> Upstream:
    """The built-in server, one of its tools for tokens with a scope of its own."""
    call = {"tool": "read_note", "arguments": {"name": "welcome"}, "expect": "Welcome", "bad": {"name": "../welcome"}}
    more = [{"step": "step up", "tool": "list_notes", "arguments": {}, "expect": "welcome"}]
    return Upstream("demo", BOTH, "stdio", **call, more=more, scopes={"list_notes": "notes.list"}, command=["self"])


def _offers(name: str, revision: str, over: str, also: list[dict[str, Any]], **where: Any) -> Upstream:
    call = {"tool": "json_schema_2020_12_tool", "arguments": {"email": "a@b"}, "expect": "valid", "bad": {"contactMethod": 7}}
    more = [
        {"step": "prompt", "name": "test_prompt_with_arguments", "arguments": {"arg1": "x", "arg2": "y"}, "expect": "arg2='y'"},
        {"step": "resource", "uri": "test://static-text", "expect": "static text resource"},
        {"step": "template", "template": "test://template/{id}/data", "uri": "test://template/7/data", "expect": "ID: 7"},
        _completes("test_prompt_with_arguments", "arg1", "par", "party"),
        *also,
    ]
    progress = {"tool": "test_tool_with_progress", "arguments": {}, "atLeast": 2}
    return Upstream(name, frozenset({revision}), over, **call, progress=progress, more=more, **where)


def _notices() -> list[dict[str, Any]]:
    return [
        {"step": "updated", "uri": "test://watched-resource", "tool": "test_trigger_resource_update"},
        {"step": "changed", "list": "tools", "tool": "test_trigger_tool_change"},
        {"step": "log", "tool": "test_logging_tool", "atLeast": 3},
    ]


def _questions() -> list[dict[str, Any]]:
    method = {"elicitation": "elicitation/create", "sampling": "sampling/createMessage", "roots": "roots/list"}
    question = lambda step, tool, arguments, expect, content=None: {
        "step": step, "method": method[step], "tool": tool, "arguments": arguments, "expect": expect, "content": content,
    }
    return [
        question("elicitation", "test_elicitation", {"message": "Who?"}, "interop", {"username": "interop", "email": "a@b"}),
        question("sampling", "test_sampling", {"prompt": "Say something"}, "a sample"),
        question("roots", "test_input_required_result_list_roots", {}, "file:///interop"),
    ]


def _completes(prompt: str, argument: str, value: str, expect: str) -> dict[str, Any]:
    ref = {"type": "ref/prompt", "name": prompt}
    return {"step": "completion", "ref": ref, "argument": {"name": argument, "value": value}, "expect": expect}


def everything_over_http(work: Path) -> tuple[Upstream, Service]:
    """The example server with everything, over streamable HTTP with sessions."""
    return _everything("streamableHttp", work)


def _everything(mode: str, work: Path) -> tuple[Upstream, Service]:
    # It takes its port from PORT and does not say which one it got for 0, so one is found for it.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = Service([places.NODE, places.EVERYTHING, mode], work, {"PORT": str(port)})
    service.wait_for(r"(listening|running) on port")
    if mode == "sse":
        return _sums("everything-sse", SSE, url=f"http://127.0.0.1:{port}/sse"), service
    return _sums("everything-http", "http", url=f"http://127.0.0.1:{port}/mcp"), service


def _address(service: Service) -> str:
    return service.wait_for(r"listening on (http\S+)")[1]
