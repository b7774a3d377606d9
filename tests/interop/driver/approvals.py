"""An approval from request to run with the SDKs of others, and what the same approval is not good for.

Two agents of one SDK are connected all the while. A person at the command line says yes. The first agent's call then runs once: with other
arguments, a second time, by the other agent, or under another policy it waits for an approval of its own. Where a row asks the agent's own user, the
SDK puts the form to its callback, and what that answers counts.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

from . import places
from .clients import CLIENTS, Client
from .gateway import Folder
from .processes import Dialogue, Failed
from .upstreams import BOTH

PERSON = "alice"
CONFIG = """\
listen:   { http: "127.0.0.1:0" }
console:  { http: "127.0.0.1:0" }
approvals: { max_pending_per_agent: 1024 }
"""
# What is shared cannot be taken back: somebody on call says yes. What is deleted, the agent's own user.
POLICY = """\
p, R1, role:tester, demo__*, reversible, -, allow
p, R2, role:tester, demo__share_note, irreversible, -, allow
p, R3, role:tester, demo__delete_note, irreversible, -, allow
o, O1, role:tester, demo__share_note, any, -, approve:oncall
o, O2, role:tester, demo__delete_note, any, -, approve:user
"""
LIMITS = "limits: []\nloops: []\nrequests: { per_agent: 10000/s, failures_per_peer: 1000/s }\n"
TIERS = {"write_note": "reversible", "share_note": "irreversible", "delete_note": "irreversible"}

Told = dict[str, Any]


def report(work: Path, is_direct: bool) -> tuple[str, list[str]]:
    """Prints a line for each SDK; answers the counts, and a fault for each that did not go as it should."""
    clients = [client for client in CLIENTS if client.sdk.startswith(("typescript", "python"))]
    if is_direct:
        return f"approvals: 0 passed, 0 failed, {len(clients)} not run without the gateway", []
    at = work / "approvals"
    at.mkdir()
    # Each has a gateway of its own, since each changes its policy.
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda numbered: _met(at / str(numbered[0]), numbered[1]), enumerate(clients)))
    width = max(len(name) for name, _, _ in rows)
    print("\nAn approval with the SDKs of others")
    for name, steps, fault in rows:
        print(f"{'FAIL' if fault else 'ok':4}  {name.ljust(width)}  {', '.join(steps)}")
    faults = [f"approvals, {name}: {fault}" for name, _, fault in rows if fault]
    return f"approvals: {len(rows) - len(faults)} passed, {len(faults)} failed", faults


class _Demo:
    """The built-in server, with the tools that are called here."""

    name = "demo"

    def manifest(self) -> str:
        tools = {tool: {"tier": tier} for tool, tier in TIERS.items()}
        return json.dumps({"upstream": self.name, "transport": {"stdio": {"command": "self"}}, "tools": tools})


class Meeting:
    """A gateway, two agents of one SDK that stay connected, and a person."""

    def __init__(self, at: Path, client: Client) -> None:
        self.at, self.client, self.steps = at, client, []
        self.folder = Folder(at, [_Demo()], "", LIMITS, CONFIG)
        made = json.loads(self.folder.run("approvals", "keygen", PERSON, "--out", str(at / "person.key"), "--json"))
        person = f"people: [ {{ name: {PERSON}, roles: [oncall], key_hash: \"{made['key_hash']}\" }} ]\n"
        (at / "doorward.yaml").write_text(CONFIG + person)
        keys = [self.folder.add_agent(name) for name in ("one", "two")]
        self._policy(POLICY + "g, agent:one, role:tester\ng, agent:two, role:tester\n")
        self.gateway, self.url = self.folder.serve()
        self.one, self.two = (self._agent(key, asks=False) for key in keys)
        # The same agent as `one`, with a user who can be asked.
        self.asked = self._agent(keys[0], asks=True)

    def _policy(self, rows: str) -> None:
        new = self.at / "policy.new"
        new.write_text(rows)
        new.rename(self.at / "policies" / "policy.csv")

    def _agent(self, key: str, asks: bool) -> Dialogue:
        job = {"url": self.url, "key": key, "mode": self.client.mode, "talks": True, "asks": asks, "calls": []}
        agent = Dialogue([*self.client.command, json.dumps(job)], places.TMP)
        hello = json.loads(agent.answer())
        if hello.get("revision") != self.client.revision(BOTH):
            raise Failed(f"connect: {hello}")
        return agent

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Takes a step; what fails is told by its name."""
        try:
            work()
        except Failed as failed:
            raise Failed(f"{name}: {failed}") from None
        self.steps.append(name)

    def waits(self, agent: Dialogue, tool: str, arguments: dict[str, Any]) -> str:
        """Calls, and answers the name of the approval that the call waits for."""
        told = _call(agent, tool, arguments)
        error = told.get("error") or {}
        if told.get("isError") is not True or error.get("code") != "approval_required" or error.get("effect") != "none":
            raise Failed(f"expected approval_required, got {told}")
        name: str = error["approval"]["id"]
        if name not in told["text"]:
            raise Failed(f"a model is not told of {name}: {told['text']}")
        return name

    def new(self, agent: Dialogue, arguments: dict[str, Any], known: set[str]) -> str:
        """The same where it must be another approval than these."""
        name = self.waits(agent, "demo__share_note", arguments)
        if name in known:
            raise Failed(f"{name} was good for it")
        known.add(name)
        return name

    def approve(self, name: str) -> None:
        self.folder.run("approvals", "approve", name, "--key", str(self.at / "person.key"))

    def end(self) -> None:
        for process in (self.one, self.two, self.asked, self.gateway):
            process.stop()


def _call(agent: Dialogue, tool: str, arguments: dict[str, Any], **more: Any) -> Told:
    told: Told = json.loads(agent.ask(json.dumps({"tool": tool, "arguments": arguments, **more})))
    return told


def _ran(told: Told, words: str) -> None:
    if told.get("isError") is not False or words not in told.get("text", ""):
        raise Failed(f"expected {words}, got {told}")


def _met(at: Path, client: Client) -> tuple[str, list[str], str | None]:
    name = f"{client.sdk} {client.mode}"
    meeting = None
    try:
        meeting = Meeting(at, client)
        _by_a_person(meeting)
        _by_the_user(meeting)
        return name, meeting.steps, None
    except Failed as failed:
        said = f"\n  the gateway said:\n{meeting.gateway.said()}" if meeting else ""
        return name, meeting.steps if meeting else [], f"{failed}{said}"
    finally:
        if meeting:
            meeting.end()


def _by_a_person(meeting: Meeting) -> None:
    sam = {"name": "welcome", "recipient": "sam"}
    known: set[str] = set()
    share = lambda agent=meeting.one: _call(agent, "demo__share_note", sam)
    first = ""

    def requested() -> None:
        nonlocal first
        first = meeting.new(meeting.one, sam, known)
        if meeting.waits(meeting.one, "demo__share_note", sam) != first:
            raise Failed("the same call waits for two approvals")

    def approved() -> None:
        shown = json.loads(meeting.folder.run("approvals", "show", first, "--json"))
        if shown["arguments"] != sam:
            raise Failed(f"shown was {shown}")
        meeting.approve(first)

    def another_policy() -> None:
        rows = (meeting.at / "policies" / "policy.csv").read_text()
        meeting.approve(meeting.new(meeting.one, {**sam, "recipient": "eve"}, known))
        meeting._policy(rows + "p, D9, agent:nobody, demo__write_note, any, -, deny\n")
        meeting.gateway.wait_for("are read again")
        meeting.new(meeting.one, {**sam, "recipient": "eve"}, known)

    meeting.step("request", requested)
    meeting.step("yes", approved)
    meeting.step("other arguments wait", lambda: meeting.new(meeting.one, {**sam, "recipient": "mallory"}, known))
    meeting.step("other agent waits", lambda: meeting.new(meeting.two, sam, known))
    meeting.step("runs", lambda: _ran(share(), "sam"))
    meeting.step("second use waits", lambda: meeting.new(meeting.one, sam, known))
    meeting.step("new policy waits", another_policy)
    intents = meeting.folder.run("audit", "find", "--kind", "intent", "--json").splitlines()
    if [json.loads(intent).get("approval_id") for intent in intents] != [first]:
        raise Failed(f"something else ran: {intents}")


def _by_the_user(meeting: Meeting) -> None:
    note = {"name": "in-band"}
    accept = lambda **content: {"action": "accept", "content": content}
    written = _call(meeting.one, "demo__write_note", {**note, "text": "to be deleted"})
    delete = lambda answer: _call(meeting.asked, "demo__delete_note", note, answer=answer)

    def denied() -> None:
        told = _call(meeting.asked, "demo__delete_note", {"name": "todo"}, answer={"action": "decline"})
        if (told.get("error") or {}).get("code") != "approval_denied":
            raise Failed(f"expected approval_denied, got {told}")

    def ran() -> None:
        told = delete(accept(approve=True))
        _ran(told, "in-band")
        if len(told["asked"]) != 1 or '{"name":"in-band"}' not in told["asked"][0] or "demo__delete_note" not in told["asked"][0]:
            raise Failed(f"the user was asked {told['asked']}")

    meeting.step("user cannot be asked", lambda: meeting.waits(meeting.one, "demo__delete_note", note))
    _ran(written, "in-band")
    meeting.step("user says no", denied)
    meeting.step("user says yes and it runs", ran)
