"""Clients that come with access tokens: what their SDKs make of our challenges, from the first 401 to a step up."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

from . import places
from .cases import Row, meet, run
from .clients import CLIENTS
from .gateway import Folder
from .processes import Failed, Service
from .upstreams import BOTH, guarded_notes

# What every token needs, and what one tool needs besides.
SCOPE = "tools"
# Nobody comes in without a token or a key.
CONFIG = """\
listen:   {{ http: "127.0.0.1:{port}" }}
console:  {{ http: "127.0.0.1:0" }}
agents:   [ {{ name: interop }} ]
identity: {{ jwt: [ {{ issuer: "{issuer}", jwks: {{ url: "{issuer}/jwks" }}, scopes: [{scope}] }} ] }}
"""

POLICY = """\
p, R1, role:tester, *, reversible, -, allow
g, agent:interop, role:tester
"""


def with_tokens(work: Path) -> list[Row]:
    """Each SDK, in each mode, finds the authorization server, gets a token, and another one for a tool that wants more."""
    # Tokens name the gateway by its address, so that is known before it starts.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    issuer = Service([places.NODE, str(places.HERE / "servers" / "issuer.mjs"), url], work)
    address = issuer.wait_for(r"listening on (http\S+)")[1]
    notes = guarded_notes()
    folder = Folder(work / "tokens", [notes], POLICY, config=CONFIG.format(port=port, issuer=address, scope=SCOPE))
    gateway, _ = folder.serve()
    where = {"url": url, "oauth": {"issuer": address, "clientId": "interop"}}
    clients = [client for client in CLIENTS if client.sdk.startswith(("typescript", "python"))]
    cases = [lambda: [_without(url, address)]]
    for client in clients:
        cases.append(lambda client=client: meet(
            client, [notes], "http, token", where, client.revision(BOTH) or "", lambda _: f"{notes.name}__", behind_gateway=True
        ))
    rows = run(cases)
    rows.append(_given(issuer, folder, notes.scopes, len(clients)))
    for service in (gateway, issuer):
        service.stop()
    return rows


def _without(url: str, issuer: str) -> Row:
    """Who comes with nothing is told where tokens for this gateway are made."""
    row = Row("plain http", "-", "http, no token", "-", "-", "401 with a challenge, and the metadata that it names")
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            row.fault = f"let in with status {answer.status}"
            return row
    except urllib.error.HTTPError as refusal:
        challenge = refusal.headers.get("WWW-Authenticate", "")
        status = refusal.code
    if status != 401 or f'scope="{SCOPE}"' not in challenge or "resource_metadata=" not in challenge:
        row.fault = f"status {status}, challenge {challenge}"
        return row
    with urllib.request.urlopen(challenge.split('resource_metadata="')[1].split('"')[0], timeout=30) as answer:
        said = json.load(answer)
    if said["resource"] != url or said["authorization_servers"] != [issuer]:
        row.fault = f"the metadata says {said}"
    return row


def _given(issuer: Service, folder: Folder, scopes: dict[str, str], clients: int) -> Row:
    """Every client was given a token for the first call, and one with both scopes; the records name the person."""
    row = Row("authorization server", "-", "http, token", "-", "-", f"gave {clients} clients a token, and one for more")
    given = [set(line.split('"')[1].split()) for line in issuer.tail if line.startswith("gave a token")]
    both = {SCOPE, *scopes.values()}
    if given.count({SCOPE}) < clients or given.count(both) < clients:
        row.fault = f"gave {given}"
    try:
        outcomes = [json.loads(line) for line in folder.run("audit", "find", "--kind", "outcome", "--json").splitlines()]
        if not outcomes or any(outcome.get("on_behalf_of") != "alice" for outcome in outcomes):
            row.fault = f"calls are not recorded as the person's: {outcomes[:1]}"
    except Failed as failed:
        row.fault = str(failed)
    return row
