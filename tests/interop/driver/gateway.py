"""Folders for the gateway under test, and the gateway itself.

The folders are what an operator would write, in the smallest form: nothing here is a default that we rely on.
"""

import json
from pathlib import Path
from typing import Protocol

from . import places
from .processes import Failed, Service, finish

CONFIG = """\
listen:   { http: "127.0.0.1:0" }
console:  { http: "127.0.0.1:0" }
stdio:    { agent: local }
agents:   [ { name: local } ]
identity: { anonymous: { agent: local, from: loopback } }
"""

# Clients that are compared make the same calls again and again.
LIMITS = """\
loops: []
limits:
  - { id: L1, per: [agent], of: "*", rate: 50/s, burst: 100 }
"""

POLICY = """\
p, R1, role:tester, *, reversible, -, allow
p, D1, role:tester, everything__get-structured-content, any, -, deny
p, D2, role:tester, everything-http__get-structured-content, any, -, deny
p, D3, role:tester, everything-sse__get-structured-content, any, -, deny
g, agent:local, role:tester
g, agent:interop, role:tester
"""


class Named(Protocol):
    """What a folder has to know of a server."""

    name: str

    def manifest(self) -> str: ...


class Folder:
    """One operator's folder, its tools pinned."""

    def __init__(self, at: Path, upstreams: list[Named], policy: str = POLICY, limits: str = LIMITS, config: str = CONFIG) -> None:
        self.at = at
        self.config = str(at / "doorward.yaml")
        for folder in ("tool-manifests", "policies"):
            (at / folder).mkdir(parents=True)
        (at / "doorward.yaml").write_text(config)
        (at / "policies" / "policy.csv").write_text(policy)
        (at / "policies" / "limits.yaml").write_text(limits)
        for upstream in upstreams:
            self.name(upstream)
        self.run("tools", "pin")

    def name(self, upstream: Named) -> None:
        """Writes an upstream's manifest."""
        (self.at / "tool-manifests" / f"{upstream.name}.yaml").write_text(upstream.manifest())

    def run(self, *words: str) -> str:
        """Runs a command on this folder and answers what it printed."""
        done = finish([places.doorward(), *words, "--config", self.config], self.at)
        if done.returncode != 0:
            raise Failed(f"doorward {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def add_agent(self, name: str) -> str:
        """Makes an agent and answers its key."""
        key: str = json.loads(self.run("agent", "add", name, "--json"))["key"]
        return key

    def serve(self) -> tuple[Service, str]:
        """Starts the gateway; answers it and its address."""
        gateway = Service([places.doorward(), "serve", "--config", self.config], self.at)
        return gateway, gateway.wait_for(r"listening on (http://\S+/mcp)")[1]

    def stdio(self) -> list[str]:
        """The command that a client starts."""
        return [places.doorward(), "stdio", "--config", self.config]
