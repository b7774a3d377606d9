"""The official Python SDK, line 1.x: knows the revisions with a handshake only. `py_old.py JOB`, JOB as in driver/clients.py."""

from typing import Any

import httpx
from exercise import Connected, Seen, exercise, main, text_of
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError


async def run(job: dict[str, Any]) -> dict[str, Any]:
    if job.get("command"):
        command, *args = job["command"]
        async with stdio_client(StdioServerParameters(command=command, args=args, env=job.get("env"), cwd=job.get("cwd"))) as (read, write):
            return await over(read, write, job)
    headers = {"Authorization": f"Bearer {job['key']}"} if job.get("key") else {}
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:
        async with streamable_http_client(job["url"], http_client=client) as (read, write, _session):
            return await over(read, write, job)


async def over(read: Any, write: Any, job: dict[str, Any]) -> dict[str, Any]:
    async with ClientSession(read, write) as session:
        agreed = await session.initialize()

        async def tools(cursor: str | None) -> tuple[list[str], str | None]:
            page = await session.list_tools(cursor)
            return [tool.name for tool in page.tools], page.nextCursor

        async def call(tool: str, arguments: dict[str, Any], progress: Any = None) -> Seen:
            result = await session.call_tool(tool, arguments, progress_callback=progress)
            return Seen(text_of(result.content), result.isError)

        connected = Connected(str(agreed.protocolVersion), agreed.serverInfo.name, tools, call, McpError)
        return await exercise(job, connected)


main(run)
