"""A server of both eras on the official Python SDK 2.x, without sessions: `modern.py stdio` or `modern.py http`.

Over HTTP it takes a port from the system and names its address on stderr.
"""

import socket
import sys

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

# The work of a step. Without any, progress and answer arrive together, and SDKs differ in which of them they look at first.
STEP_S = 0.05
READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

server = MCPServer("interop-modern-py")


@server.tool(title="Echo", annotations=READ_ONLY)
def echo(text: str) -> str:
    """Says it again."""
    return f"echo: {text}"


@server.tool(title="Add", annotations=READ_ONLY)
async def add(a: float, b: float, ctx: Context) -> float:
    """Adds two numbers; tells its progress in two steps."""
    for step in (1, 2):
        await ctx.report_progress(step, 2)
        await anyio.sleep(STEP_S)
    return a + b


def serve_http() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    app = server.streamable_http_app(stateless_http=True)
    anyio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve, [listener])


if sys.argv[1] == "http":
    serve_http()
else:
    server.run("stdio")
