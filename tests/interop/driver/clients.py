"""The clients, and the one form in which they are told what to do and report what they did.

A job is the last argument of a client, as JSON:
  url, key?, sse?  where to connect over streamable HTTP, and the API key to send; with `sse` over HTTP+SSE instead, or
  oauth?           with url: the issuer and the clientId by which it gets access tokens; its person agrees to everything, or
  command, env?, cwd?   what to start and speak to over stdio, and where
  mode             legacy (handshake), auto (probe first), modern (2026-07-28 and nothing else); the 1.x lines have only one
  strict           whether an unknown tool must be the error -32602
  calls            per upstream: tool, arguments, expect (in the result's text), bad (arguments), unknown (a tool's name),
                   progress? {tool, arguments, atLeast}, denied? {tool, arguments},
                   more: further steps by name, with what each needs (see upstreams.py)
  asks             whether one of those is a question to the client, so that it must say what it can be asked
  talks            in place of all these: call what each line of stdin says, {tool, arguments, answer?}, `answer` being the whole answer to a form,
                   and tell of each in a line: {text, isError, error, asked}, `error` being ours in `_meta` and `asked` the forms' messages
A report is one line of JSON on stdout:
  revision, server what was negotiated, and the server's name for itself where the client got to know it
  calls            per upstream: the steps that went well, and the fault that ended them or null
  fault?           what went wrong outside of any call
"""

import json
from dataclasses import dataclass
from typing import Any

from . import places
from .processes import Failed, finish

LEGACY = "2025-11-25"
MODERN = "2026-07-28"


@dataclass(frozen=True)
class Client:
    """One SDK in one mode."""

    sdk: str
    mode: str
    command: tuple[str, ...]
    # Whether it can be told to connect over HTTP+SSE; the gateway is never reached that way.
    speaks_sse: bool = False
    # The steps that it has no way to take.
    lacks: frozenset[str] = frozenset()
    # The servers that it is tried at, where not all.
    meets: frozenset[str] | None = None
    # Why it does not run on this machine.
    unfit: str | None = None

    def is_tried_at(self, upstream: str) -> bool:
        """Whether it meets this server at all."""
        return self.meets is None or upstream in self.meets

    def revision(self, server: frozenset[str]) -> str | None:
        """What it must agree on with a server of these revisions, of each era its newest; None when they cannot meet."""
        shaken = self.mode != "modern"
        stateless = self.mode != "legacy"
        return max((revision for revision in server if (stateless if revision >= MODERN else shaken)), default=None)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Runs a job and answers its report; a client that dies has one too."""
        job = {**job, "mode": self.mode}
        try:
            done = finish([*self.command, json.dumps(job)], places.TMP)
            report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            report["stderr"] = done.stderr
        except Failed as error:
            return {"calls": [], "fault": str(error), "stderr": ""}
        except (IndexError, ValueError):
            return {"calls": [], "fault": f"no report; exit {done.returncode}", "stderr": done.stderr}
        return report


def _script(name: str) -> str:
    return str(places.HERE / "clients" / name)


def _inspector(mode: str) -> Client:
    return Client(
        "inspector",
        mode,
        (places.NODE_22, _script("inspector.mjs")),
        # A refused tool is not in the list, so it is not called either.
        lacks=frozenset({"progress", "denied", "completion"}),
        # It is a process for each request, which takes its time.
        meets=frozenset({"everything-http", "fast-http"}),
        unfit="wants Node 22.19" if places.node_22_is_older_than((22, 19)) else None,
    )


CLIENTS = [
    Client("typescript 1.x", "legacy", (places.NODE, _script("ts-old.mjs")), speaks_sse=True),
    *(Client("typescript 2.x", mode, (places.NODE, _script("ts-new.mjs"))) for mode in ("legacy", "auto", "modern")),
    Client("python 1.x", "legacy", (places.PY_OLD, _script("py_old.py")), speaks_sse=True),
    *(Client("python 2.x", mode, (places.PY_NEW, _script("py_new.py"))) for mode in ("legacy", "auto", "modern")),
    Client("fastmcp", "legacy", (places.PY_FAST, _script("fast.py")), speaks_sse=True),
    Client("fastmcp", "auto", (places.PY_FAST, _script("fast.py")), speaks_sse=True, lacks=frozenset({"updated", "changed"})),
    *(_inspector(mode) for mode in ("legacy", "auto")),
]
