"""The servers behind the gateway: how to start each, how a manifest names it, what to call on it."""

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import places
from .clients import LEGACY, MODERN
from .processes import Service

# Servers that the gateway cannot reach yet, and why. Each moves into `all_upstreams` with the release that can.
LEFT_OUT = {"everything-sse": "HTTP+SSE (2024-11-05) servers are not spoken to in this release"}

HELLO = "hello from the file system\n"
BOTH = frozenset({LEGACY, MODERN})


@dataclass
class Upstream:
    """One server. It has a command (stdio) or, once started, a url (HTTP)."""

    name: str
    eras: frozenset[str]
    over: str
    tool: str
    arguments: dict[str, Any]
    expect: str
    bad: dict[str, Any]
    progress: dict[str, Any] | None = None
    denied: dict[str, Any] | None = None
    command: list[str] = field(default_factory=list)
    url: str = ""

    def call(self, prefix: str, behind_gateway: bool) -> dict[str, Any]:
        """This server's part of a job."""
        named = lambda call: call and {**call, "tool": prefix + call["tool"]}
        return {
            "upstream": self.name,
            "tool": prefix + self.tool,
            "arguments": self.arguments,
            "expect": self.expect,
            "bad": self.bad,
            "unknown": f"{prefix}no_such_tool",
            "progress": named(self.progress),
            "denied": named(self.denied) if behind_gateway else None,
        }

    def manifest(self) -> str:
        """Its tool manifest. JSON is YAML, and needs no quoting rules."""
        if self.url:
            transport: dict[str, Any] = {"http": {"url": self.url}}
        elif self.command[0] == "self":
            transport = {"stdio": {"command": "self"}}
        else:
            transport = {"stdio": {"command": self.command[0], "args": self.command[1:]}}
        called = {call["tool"] for call in (self.progress, self.denied) if call} | {self.tool}
        tools = {tool: {"tier": "read"} for tool in sorted(called)}
        return json.dumps({"upstream": self.name, "transport": transport, "tools": tools}, indent=2)


def all_upstreams(work: Path) -> tuple[list[Upstream], list[Service]]:
    """Every upstream, the HTTP ones started."""
    files = work / "files"
    files.mkdir()
    (files / "hello.txt").write_text(HELLO)
    everything, streamable = everything_over_http(work)
    modern_ts = Service([places.NODE, _server("modern.mjs"), "http"], work)
    modern_py = Service([places.PY_NEW, _server("modern.py"), "http"], work)
    upstreams = [
        _sums("everything", "stdio", command=[places.NODE, places.EVERYTHING, "stdio"]),
        everything,
        filesystem(files),
        _adds("modern-ts", frozenset({MODERN}), "stdio", command=[places.NODE, _server("modern.mjs"), "stdio"]),
        _adds("modern-ts-http", frozenset({MODERN}), "http", url=_address(modern_ts)),
        _adds("modern-py", BOTH, "stdio", command=[places.PY_NEW, _server("modern.py"), "stdio"]),
        _adds("modern-py-http", BOTH, "http", url=_address(modern_py)),
        _notes(),
    ]
    return upstreams, [streamable, modern_ts, modern_py]


def filesystem(files: Path) -> Upstream:
    """The file server, allowed into one folder that has a `hello.txt`."""
    path = str(files / "hello.txt")
    call = {"tool": "read_text_file", "arguments": {"path": path}, "expect": HELLO.strip(), "bad": {"path": 7}}
    return Upstream("filesystem", frozenset({LEGACY}), "stdio", **call, command=[places.NODE, places.FILESYSTEM, str(files)])


def _sums(name: str, over: str, **where: Any) -> Upstream:
    slow = {"tool": "trigger-long-running-operation", "arguments": {"duration": 0.4, "steps": 4}, "atLeast": 2}
    denied = {"tool": "get-structured-content", "arguments": {"location": "New York"}}
    call = {"tool": "get-sum", "arguments": {"a": 2, "b": 40}, "expect": "42", "bad": {"a": "two", "b": 40}}
    return Upstream(name, frozenset({LEGACY}), over, **call, progress=slow, denied=denied, **where)


def _adds(name: str, eras: frozenset[str], over: str, **where: Any) -> Upstream:
    progress = {"tool": "add", "arguments": {"a": 1, "b": 1}, "atLeast": 2}
    call = {"tool": "add", "arguments": {"a": 2, "b": 40}, "expect": "42", "bad": {"a": "two", "b": 40}}
    return Upstream(name, eras, over, **call, progress=progress, **where)


def _notes() -> Upstream:
    slow = {"tool": "index_notes", "arguments": {"steps": 3, "delay_ms": 50}, "atLeast": 2}
    call = {"tool": "read_note", "arguments": {"name": "welcome"}, "expect": "Welcome", "bad": {"name": "../welcome"}}
    return Upstream("demo", BOTH, "stdio", **call, progress=slow, command=["self"])


def everything_over_http(work: Path) -> tuple[Upstream, Service]:
    """The example server with everything, over streamable HTTP with sessions."""
    # It takes its port from PORT and does not say which one it got for 0, so one is found for it.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = Service([places.NODE, places.EVERYTHING, "streamableHttp"], work, {"PORT": str(port)})
    service.wait_for(r"listening on port")
    return _sums("everything-http", "http", url=f"http://127.0.0.1:{port}/mcp"), service


def _server(name: str) -> str:
    return str(places.HERE / "servers" / name)


def _address(service: Service) -> str:
    return service.wait_for(r"listening on (http\S+)")[1]
