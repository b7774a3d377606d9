"""A server of both eras on FastMCP, with sessions for clients that shake hands: `fast.py stdio` or `fast.py http`.

Over HTTP it takes a port from the system and names its address on stderr.
"""

import socket
import sys

import anyio
from fastmcp import Context, FastMCP

# As in modern.py: progress must not arrive together with the answer.
STEP_S = 0.05

server = FastMCP("interop-fast")


@server.tool
async def add(a: float, b: float, ctx: Context) -> float:
    """Adds two numbers; tells its progress in two steps."""
    for step in (1, 2):
        await ctx.report_progress(step, 2)
        await anyio.sleep(STEP_S)
    return a + b


@server.prompt
def greeting(name: str) -> str:
    """Asks for a greeting."""
    return f"Say hello to {name}."


@server.resource("interop://motto")
def motto() -> str:
    """A resource."""
    return "Nobody here wrote this."


@server.resource("interop://squares/{number}")
def square(number: int) -> str:
    """A template."""
    return f"{number} squared is {number * number}"


def serve_http() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    anyio.run(lambda: server.run_http_async(show_banner=False, log_level="warning", sockets=[listener]))


if sys.argv[1] == "http":
    serve_http()
else:
    server.run("stdio", show_banner=False, log_level="warning")
