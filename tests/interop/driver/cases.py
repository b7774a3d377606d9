"""What is run: which client meets which server, through what."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable

from . import places
from .clients import CLIENTS, LEGACY, MODERN, Client
from .gateway import Folder
from .processes import Service
from .upstreams import BOTH, QUESTIONS, SSE, Upstream, all_upstreams, everything_over_http, filesystem

# As many clients at once: more would only measure how this machine is overloaded.
AT_ONCE = 2


@dataclass
class Row:
    """One line of the table."""

    client: str
    era: str
    transport: str
    upstream: str
    upstream_era: str
    exercised: str
    fault: str | None = None
    # False where the client does not run on this machine.
    ran: bool = True

    def pair(self) -> "Pair":
        """Who met whom, in whatever way."""
        return self.client, self.era.split()[0], self.upstream

    def failed_at(self) -> str | None:
        """The step that went wrong, or how the connection did."""
        return self.fault and self.fault.split(":")[0]


# A client, its mode, and the name of an upstream.
Pair = tuple[str, str, str]
Cases = Iterable[Callable[[], list[Row]]]


def run(cases: Cases) -> list[Row]:
    """Runs cases side by side; the rows stay in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [row for rows in pool.map(lambda case: case(), cases) for row in rows]


def direct(work: Path, only: set[Pair] | None = None) -> list[Row]:
    """Every client, or those of `only`, against its server with nothing in between: shows whose fault it is not."""
    upstreams, services = all_upstreams(work)
    notes = work / "direct"
    notes.mkdir()
    cases = []
    for client in CLIENTS:
        for upstream in upstreams:
            revision = client.revision(upstream.eras)
            if revision is None or not client.is_tried_at(upstream.name) or (upstream.over == SSE and not client.speaks_sse):
                continue
            if only is not None and (client.sdk, client.mode, upstream.name) not in only:
                continue
            cases.append(lambda client=client, upstream=upstream, revision=revision: meet(
                client, [upstream], upstream.over, _straight_to(upstream, notes), revision, lambda _: "", behind_gateway=False
            ))
    rows = run(cases)
    for service in services:
        service.stop()
    return rows


def through_gateway(work: Path) -> list[Row]:
    """Every client against every server through `serve` and through `stdio`, then what only a gateway does."""
    upstreams, services = all_upstreams(work)
    serving, alone = Folder(work / "serve", upstreams), Folder(work / "stdio", upstreams)
    key = serving.add_agent("interop")
    gateway, url = serving.serve()
    prefix = lambda upstream: f"{upstream.name}__"
    cases = [lambda: [_wrong_key(url)]]

    def try_out(client: Client, transport: str, where: dict[str, Any], shared: bool) -> None:
        revision = client.revision(BOTH) or ""
        cases.append(lambda: meet(client, upstreams, transport, where, revision, prefix, behind_gateway=True, shared=shared))

    for client in CLIENTS:
        # Half of them with a key, half as the anonymous local agent.
        with_key = client.sdk.startswith(("typescript", "inspector"))
        try_out(client, "http, key" if with_key else "http", {"url": url, **({"key": key} if with_key else {})}, shared=True)
        # A process for each request would each time start every server; such a client is met beside `serve`.
        if client.meets is None:
            try_out(client, "stdio", {"command": alone.stdio()}, shared=False)
    # Beside a running gateway of the same folder, which then answers.
    for client in (CLIENTS[0], *(client for client in CLIENTS if client.meets)):
        try_out(client, "stdio, beside serve", {"command": serving.stdio()}, shared=True)
    rows = run(cases)
    for service in (gateway, *services):
        service.stop()
    # A gateway's last words explain a failure better than its clients can.
    for row in rows:
        if row.fault and row.transport.startswith("http"):
            row.fault += f"\n  the gateway said:\n{gateway.said()}"
            break
    return rows


def wrapped(work: Path) -> list[Row]:
    """One entry of a client's `mcp.json`, and no other file: `doorward wrap fs -- npx -y SERVER FOLDER`."""
    files = work / "wrapped-files"
    files.mkdir()
    (files / "hello.txt").write_text("hello from the file system\n")
    server = filesystem(files)
    # As everybody writes it. In the folder of the installed packages npx takes the pinned one and asks no registry.
    command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", str(files)]
    cases = []
    # A process for each request would each time start a gateway.
    clients = [client for client in CLIENTS if client.meets is None]
    for number, (client, options) in enumerate([*((client, []) for client in clients), (clients[0], ["--prefix", "none"])]):
        home = work / f"home-{number}"
        home.mkdir()
        entry = {"command": places.doorward(), "args": ["wrap", "fs", *options, "--", *command], "env": {"HOME": str(home)}}
        where = {"command": [entry["command"], *entry["args"]], "env": entry["env"], "cwd": str(places.INSTALLED / "node")}
        prefix = lambda _, options=options: "" if options else "fs__"
        transport = " ".join(["wrap", *options])
        revision = client.revision(BOTH) or ""
        cases.append(lambda client=client, transport=transport, where=where, revision=revision, prefix=prefix: meet(
            client, [server], transport, where, revision, prefix, behind_gateway=True
        ))
    services = []

    def over(transport: str, upstream: Upstream, name: str, where: dict[str, Any]) -> None:
        for client in clients:
            revision = client.revision(BOTH) or ""
            cases.append(lambda client=client, revision=revision: meet(
                client, [upstream], transport, where, revision, lambda _: f"{name}__", behind_gateway=True
            ))

    # The same over HTTP for clients that are given an address, and in front of a server that is one.
    home = work / "home-listen"
    home.mkdir()
    listening = ["wrap", "fs", "--listen", "127.0.0.1:0", "--", *command]
    services.append(Service([places.doorward(), *listening], places.INSTALLED / "node", {"HOME": str(home)}))
    over("wrap --listen", server, "fs", {"url": services[0].wait_for(r"listening on (http://\S+/mcp)")[1]})
    upstream, service = everything_over_http(work)
    services.append(service)
    home = work / "home-url"
    home.mkdir()
    url = ["wrap", "ev", "--deny", "get-structured-content", "--url", upstream.url]
    over("wrap --url", upstream, "ev", {"command": [places.doorward(), *url], "env": {"HOME": str(home)}})
    rows = run(cases)
    for service in services:
        service.stop()
    return rows


def meet(
    client: Client,
    upstreams: list[Upstream],
    transport: str,
    where: dict[str, Any],
    revision: str,
    prefix: Callable[[Upstream], str],
    behind_gateway: bool,
    shared: bool = False,
) -> list[Row]:
    """One client at these servers: a row for each."""
    upstreams = [upstream for upstream in upstreams if client.is_tried_at(upstream.name)]
    against = lambda upstream: f"{upstream.over} {'/'.join(sorted(upstream.eras))}"
    if client.unfit:
        row = lambda name, server: Row(client.sdk, client.mode, transport, name, server, f"not run: {client.unfit}", ran=False)
        return [row(upstream.name, against(upstream)) for upstream in upstreams]
    calls = [upstream.call(prefix(upstream), behind_gateway, shared, client.lacks) for upstream in upstreams]
    asks = any(step["step"] in QUESTIONS for call in calls for step in call["more"])
    report = client.run({**where, "calls": calls, "strict": behind_gateway, "asks": asks})
    fault = report.get("fault")
    if not fault and report["revision"] != revision:
        fault = f"negotiated {report['revision']}, expected {revision}"
    done = {call["upstream"]: call for call in report["calls"]}
    rows = []
    for upstream in upstreams:
        call = done.get(upstream.name, {"steps": [], "fault": fault or "not reached"})
        era = f"{client.mode} {report.get('revision') or '-'}"
        row = Row(client.sdk, era, transport, upstream.name, against(upstream), ", ".join(call["steps"]))
        # A fault of the connection is every row's fault; what the client wrote about it is told once.
        if row_fault := call["fault"] or fault:
            row.fault = row_fault + (f"\n  the client said:\n{report['stderr'][-3000:]}" if not rows else "")
        rows.append(row)
    return rows


def _straight_to(upstream: Upstream, notes: Path) -> dict[str, Any]:
    if upstream.url:
        return {"url": upstream.url, "sse": upstream.over == SSE}
    if upstream.command == ["self"]:
        folders = ["--folder", str(notes / "notes"), "--outbox", str(notes / "outbox")]
        return {"command": [places.doorward(), "demo-server", *folders]}
    return {"command": upstream.command, "env": upstream.env}


def _wrong_key(url: str) -> Row:
    """A key that is not known is refused, also where no key would be let in."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": LEGACY, "capabilities": {}}}
    message["params"]["clientInfo"] = {"name": "interop", "version": "1"}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Authorization": "Bearer dw_nobody_0000000000000000000000000000000000000000000",
    }
    row = Row("plain http", f"legacy {LEGACY}", "http, wrong key", "-", "-", "refused with 401 and a challenge")
    request = urllib.request.Request(url, json.dumps(message).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            row.fault = f"let in with status {answer.status}"
    except urllib.error.HTTPError as refusal:
        if refusal.code != 401 or "Bearer" not in refusal.headers.get("WWW-Authenticate", ""):
            row.fault = f"status {refusal.code}, challenge {refusal.headers.get('WWW-Authenticate')}"
    except OSError as error:
        row.fault = str(error)
    return row
