"""The official Python SDK, line 2.x: both eras, by `mode`. `py_new.py JOB`, JOB as in driver/clients.py.

Its mode `auto`, the default, asks `server/discover` first and shakes hands on any error but a -32022 that leaves it nothing.
"""

from typing import Any

import httpx2
from exercise import Connected, Seen, exercise, main, text_of
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

MODES = {"legacy": "legacy", "auto": "auto", "modern": "2026-07-28"}


async def run(job: dict[str, Any]) -> dict[str, Any]:
    mode = MODES[job["mode"]]
    if job.get("command"):
        command, *args = job["command"]
        async with Client(StdioServerParameters(command=command, args=args, env=job.get("env"), cwd=job.get("cwd")), mode=mode) as client:
            return await over(client, job)
    headers = {"Authorization": f"Bearer {job['key']}"} if job.get("key") else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        async with Client(streamable_http_client(job["url"], http_client=http), mode=mode) as client:
            return await over(client, job)


async def over(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    async def tools(cursor: str | None) -> tuple[list[str], str | None]:
        page = await client.list_tools(cursor=cursor)
        return [tool.name for tool in page.tools], page.next_cursor

    async def call(tool: str, arguments: dict[str, Any], progress: Any = None) -> Seen:
        result = await client.call_tool(tool, arguments, progress_callback=progress)
        return Seen(text_of(result.content), bool(result.is_error))

    # A pinned client asks nothing before its first request, so nobody has told it the server's name yet.
    server = getattr(client, "server_info", None)
    return await exercise(job, Connected(client.protocol_version, getattr(server, "name", None), tools, call, MCPError))


main(run)
