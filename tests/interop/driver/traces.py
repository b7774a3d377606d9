"""A trace from an agent over the gateway to a server, as a collector that nobody here wrote has it.

Agent and server are on the official Python SDK, which makes spans of its own and puts its place in the trace into `_meta`; OpenTelemetry's own
command starts them. They and the gateway tell one collector by OTLP over HTTP with Protobuf. What is judged is what that one printed.
"""

import json
import re
import socket
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import places
from .clients import CLIENTS, Client
from .gateway import CONFIG, Folder
from .processes import READY_WITHIN_S, Dialogue, Failed, Service, finish
from .upstreams import BOTH, DEFAULTS

POLICY = """\
p, R1, role:tester, time__*, read, -, allow
p, D1, role:tester, time__get_current_time, any, -, deny
g, agent:local, role:tester
"""
TOOLS = {tool: {"tier": "read"} for tool in ("convert_time", "get_current_time")}
REFUSED = ["resolve", "validate", "decide", "outcome"]
FORWARDED = ["resolve", "validate", "decide", "admit", "replay", "approve", "reserve", "gather", "intent", "forward", "inspect", "outcome"]


@dataclass(frozen=True)
class Call:
    """A call, and what is told of it."""

    name: str
    tool: str
    arguments: dict[str, str]
    # What the agent reads in the answer, and nobody is told of.
    answer: str
    # `error.type`, the rule that decided, the stages that it came to, and the one that has failed.
    error: str | None
    rule: str
    stages: list[str]
    failed: str | None = None

    def words(self) -> list[str]:
        """What it is about."""
        return [*self.arguments.values(), self.answer]


# Words that a collector has from nowhere else.
NOON = {"source_timezone": "Pacific/Pitcairn", "time": "12:07", "target_timezone": "Antarctica/DumontDUrville"}
LATE = {**NOON, "time": "half past two"}
CALLS = [
    Call("runs", "convert_time", NOON, '"time_difference"', None, "R1", FORWARDED),
    Call("is refused", "get_current_time", {"timezone": "Indian/Kerguelen"}, "rule `D1` denies", "policy_denied", "D1", REFUSED, "decide"),
    Call("fails", "convert_time", LATE, "Invalid time format", "tool_error", "R1", FORWARDED, "forward"),
]
AGENTS = [client for client in CLIENTS if client.sdk == "python 2.x" and client.mode in ("legacy", "modern")]


def report(work: Path, is_direct: bool) -> tuple[str, list[str]]:
    """Prints a trace and a line for each agent; answers the counts, and a fault for each that is not told of as it should be."""
    at = work / "traces"
    at.mkdir()
    if why := "there are none without the gateway" if is_direct else _unfit(at):
        return f"traces: 0 passed, 0 failed, {len(AGENTS)} left out: {why}", []
    collector = Collector(at)
    folder = Folder(at / "folder", [_Time(collector)], POLICY, config=_config(collector.url))
    gateway, url = folder.serve()
    agents: list[Service] = []
    try:
        for client in AGENTS:
            agents.append(_calling(client, url, collector))
        # Each call is told of by the agent, by us, and by the server where it came there.
        for _ in range(len(AGENTS) * sum(3 if "forward" in call.stages else 2 for call in CALLS)):
            collector.wait_for(r"^ +Name +:.* tools/call")
    except Failed as failed:
        return f"traces: 0 passed, {len(AGENTS)} failed", [f"traces: {failed}\n  the gateway said:\n{gateway.said()}"]
    finally:
        for process in (*agents, gateway):
            process.stop()
        printed = collector.end()
        (at / "collector.txt").write_text("".join(printed))
    spans = _spans(printed)
    rows = [(client, *_judged(client, spans)) for client in AGENTS]
    _show(rows, spans)
    faults = [f"traces, {client.sdk} {client.mode}: {fault}" for client, _, fault in rows if fault]
    faults += _beside(printed, spans, folder)
    return f"traces: {sum(not fault for *_, fault in rows)} passed, {len(faults)} failed", faults


class Collector(Service):
    """Rotel, which takes OTLP over HTTP on a port of this machine and prints whatever it is told."""

    KEPT = None

    def __init__(self, at: Path) -> None:
        # It takes no port from the system and does not say when it listens.
        self.port, grpc = _free_ports(2)
        command = [str(places.collector()), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        listening = ["--otlp-http-endpoint", f"127.0.0.1:{self.port}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"]
        super().__init__([*command, *listening], at, LIBRARIES)
        self.url = f"http://127.0.0.1:{self.port}/v1/traces"
        deadline = time.monotonic() + READY_WITHIN_S
        while not _listens(self.port):
            if self.is_over() or time.monotonic() > deadline:
                raise Failed(f"the collector does not listen:\n{self.said()}")
            time.sleep(0.02)

    def told_by(self, service: str) -> dict[str, str]:
        """The environment in which a program on OpenTelemetry's SDK tells it of its spans, soon."""
        return {
            "OTEL_SERVICE_NAME": service,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "NO_PROXY": "127.0.0.1",
        }


# What it says of itself begins with the time.
OWN_LINE = re.compile(r"(\x1b\[\d*m)*\d{4}-\d\d-\d\dT")
# It is linked against the Python that it is a wheel of.
LIBRARIES = {"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or ""}


@dataclass
class Span:
    """One span as the collector printed it."""

    resource: dict[str, str]
    # Trace ID, Parent ID, ID, Name, Kind, Status code, Status message; those that it has.
    fields: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    # Start and End.
    times: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str | None:
        return self.fields.get(name)

    @property
    def began(self) -> int:
        return self.times["Start"]

    @property
    def ended(self) -> int:
        return self.times["End"]

    def service(self) -> str | None:
        return self.resource.get("service.name")

    def failed(self) -> str | None:
        """How it failed: its status' message, if it is an error."""
        return self["Status message"] if self["Status code"] == "STATUS_CODE_ERROR" else None


class _Time:
    """The official server that knows time zones, which may reach the collector."""

    name = "time"

    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def manifest(self) -> str:
        stdio = {
            "command": places.INSTRUMENT,
            "args": [places.TRACED_TIME, "--local-timezone", "UTC"],
            "env": self.collector.told_by(self.name),
            "sandbox": {"network": {"connect": [self.collector.port]}},
        }
        return json.dumps({"upstream": self.name, "transport": {"stdio": stdio}, "tools": TOOLS, "defaults": DEFAULTS})


def _config(endpoint: str) -> str:
    return f'{CONFIG}telemetry: {{ otlp: {{ endpoint: "{endpoint}" }} }}\n'


def _unfit(at: Path) -> str | None:
    """Why there are no traces to see on this machine, or of this binary."""
    program = places.collector()
    if not program:
        return "no collector is built for this machine"
    tried = finish([program, "--version"], at, LIBRARIES)
    if "error while loading shared libraries" in tried.stderr:
        return f"the collector does not run on this machine: {tried.stderr.strip()}"
    config = at / "doorward.yaml"
    config.write_text(_config("http://127.0.0.1:4318/v1/traces"))
    said = finish([places.doorward(), "check", "--config", str(config)], at)
    is_without = "made without the feature `otel`" in said.stdout + said.stderr
    return "the binary is built without the feature `otel`" if is_without else None


def _calling(client: Client, url: str, collector: Collector) -> Dialogue:
    """An agent that has made all calls; ended too early it would not have told of the last."""
    job = {"url": url, "mode": client.mode, "talks": True, "asks": False, "calls": []}
    program = [places.INSTRUMENT, places.PY_OTEL, *client.command[1:], json.dumps(job)]
    agent = Dialogue(program, places.TMP, collector.told_by(client.mode))
    agent.answer()
    for call in CALLS:
        told = json.loads(agent.ask(json.dumps({"tool": f"time__{call.tool}", "arguments": call.arguments})))
        if told.get("isError") is not (call.error is not None) or call.answer not in told["text"]:
            raise Failed(f"{client.mode}: a call that {call.name} ended with {told}")
    return agent


def _judged(client: Client, spans: list[Span]) -> tuple[list[str], str | None]:
    """The calls of an agent that are told of as they should be, and what is wrong with the next one."""
    of_agent = sorted((span for span in spans if span.service() == client.mode and _is_call(span)), key=lambda span: span.began)
    right: list[str] = []
    try:
        _equal("calls that the agent tells of", [span["Name"] for span in of_agent], [f"MCP send tools/call time__{call.tool}" for call in CALLS])
        for call, agents in zip(CALLS, of_agent):
            _check(call, agents, client, spans)
            right.append(call.name + (f" ({call.error} at {call.failed})" if call.error else ""))
    except Failed as failed:
        return right, f"a call that {CALLS[len(right)].name}: {failed}"
    return right, None


def _check(call: Call, agents: Span, client: Client, spans: list[Span]) -> None:
    ours = [span for span in _below(agents, spans) if span.service() == "doorward"]
    _equal("spans below the agent's", [(span["Name"], span["Kind"]) for span in ours], [(f"tools/call time__{call.tool}", "SPAN_KIND_SERVER")])
    told = ours[0]
    named = {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": client.revision(BOTH),
        "gen_ai.tool.name": f"time__{call.tool}",
        "gen_ai.operation.name": "execute_tool",
        "jsonrpc.request.id": agents.attributes["jsonrpc.request.id"],
        "network.transport": "tcp",
        "error.type": call.error,
        "doorward.agent": "local",
        "doorward.rules": call.rule,
    }
    for name, value in named.items():
        _equal(name, told.attributes.get(name), value)
    _equal("status", told.failed(), call.error)
    stages = _below(told, spans)
    kind = lambda stage: "SPAN_KIND_CLIENT" if stage == "forward" else "SPAN_KIND_INTERNAL"
    error = lambda stage: call.error if stage == call.failed else None
    wanted = [("doorward", stage, kind(stage), error(stage)) for stage in call.stages]
    _equal("stages", [(span.service(), span["Name"], span["Kind"], span.failed()) for span in stages], wanted)
    ends = [(told.began, stages[0].began), *((one.ended, next.began) for one, next in zip(stages, stages[1:])), (stages[-1].ended, told.ended)]
    if any(earlier > later for earlier, later in ends):
        raise Failed(f"stages that overlap, or do not lie within the call: {ends}")
    behind = [span for stage in stages for span in _below(stage, spans)]
    forwarded = [("time", f"tools/call {call.tool}", "SPAN_KIND_SERVER", call.error)] if "forward" in call.stages else []
    _equal("spans below `forward`", [(span.service(), span["Name"], span["Kind"], span.attributes.get("error.type")) for span in behind], forwarded)
    _equal("traces", {span["Trace ID"] for span in (told, *stages, *behind)}, {agents["Trace ID"]})


def _equal(what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise Failed(f"{what}: expected {expected}, got {got}")


def _beside(printed: list[str], spans: list[Span], folder: Folder) -> list[str]:
    """What is wrong with all that we told, beyond single calls."""
    ours = [span for span in spans if span.service() == "doorward"]
    stages = sum(len(call.stages) for call in CALLS)
    faults = []
    if len(ours) != (expected := len(AGENTS) * (len(CALLS) + stages)):
        faults.append(f"traces: expected {expected} spans of ours, got {len(ours)}")
    if any(not span.resource.get("service.version") or not span.resource.get("service.instance.id") for span in ours):
        faults.append(f"traces: the resource does not say which gateway it is: {ours[0].resource}")
    records = map(json.loads, folder.run("audit", "find", "--json").splitlines())
    recorded = sorted(record["call_id"] for record in records if record["kind"] in ("outcome", "refusal"))
    invocations = sorted(span.attributes["doorward.invocation"] for span in ours if _is_call(span))
    if invocations != recorded:
        faults.append(f"traces: the log has the calls {recorded}, the collector {invocations}")
    told = [line for line in printed if not OWN_LINE.match(line)]
    for word in dict.fromkeys(word for call in CALLS for word in call.words()):
        if lines := [line.strip() for line in told if word in line]:
            faults.append(f"traces: the collector has `{word}` in {len(lines)} lines, first {lines[0][:200]}")
    return faults


def _show(rows: list[tuple[Client, list[str], str | None]], spans: list[Span]) -> None:
    print("\nA trace from agent to server in Rotel, an OpenTelemetry collector")
    roots = [span for span in spans if span.service() == AGENTS[-1].mode and _is_call(span)]
    for root in roots[:1]:
        _show_below(root, spans, 0)
    for client, right, fault in rows:
        print(f"{'FAIL' if fault else 'ok':4}  {client.sdk} {client.mode.ljust(6)}  {', '.join(right)}")


def _show_below(span: Span, spans: list[Span], depth: int) -> None:
    who = {AGENTS[-1].mode: "agent"}.get(span.service() or "", span.service())
    names = {name: span.attributes[name] for name in ("mcp.protocol.version", "gen_ai.tool.name", "doorward.rules") if name in span.attributes}
    said = "  ".join(f"{name}={value}" for name, value in names.items())
    name = f"{'  ' * depth}{span['Name']}"
    kind = (span["Kind"] or "").removeprefix("SPAN_KIND_").lower()
    print(f"  {who:8}  {name:40}  {kind:8}  {(span.ended - span.began) / 1e6:8.2f} ms  {said}".rstrip())
    for below in _below(span, spans):
        _show_below(below, spans, depth + 1)


def _spans(printed: list[str]) -> list[Span]:
    """All spans, in the order of their beginnings."""
    spans: list[Span] = []
    resource: dict[str, str] = {}
    into: dict[str, str] = {}
    for line in printed:
        if line.startswith("ResourceSpans #"):
            resource = {}
        elif line.startswith("Resource attributes:"):
            into = resource
        elif line.startswith("Span #"):
            spans.append(Span(resource))
        elif line.startswith("Attributes:"):
            into = spans[-1].attributes
        elif line.endswith(":\n"):
            # Of a scope, of an event, of a link.
            into = {}
        elif found := re.match(r"     -> (.+?): \w+\((.*)\)$", line):
            into[found[1]] = found[2]
        elif found := re.match(r"    (\w[\w ]*?) *: (.*)$", line):
            spans[-1].fields[found[1]] = found[2]
        elif found := re.match(r"(Start|End) time: (\d+)$", line):
            spans[-1].times[found[1]] = int(found[2])
    return sorted(spans, key=lambda span: span.began)


def _below(span: Span, spans: list[Span]) -> list[Span]:
    return [other for other in spans if other["Parent ID"] == span["ID"]]


def _is_call(span: Span) -> bool:
    return span.attributes.get("mcp.method.name") == "tools/call"


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    # Held together, so that they are not the same.
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
