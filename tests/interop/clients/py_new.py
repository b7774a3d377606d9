"""The official Python SDK, line 2.x: both eras, by `mode`. `py_new.py JOB`, JOB as in driver/clients.py.

Its mode `auto`, the default, asks `server/discover` first and shakes hands on any error but a -32022 that leaves it nothing.
"""

from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import mcp_types as types
from consent import provider
from exercise import Connected, More, Seen, exercise, main, text_of, told
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.auth import AuthorizationCodeResult
from mcp.client.streamable_http import streamable_http_client

MODES = {"legacy": "legacy", "auto": "auto", "modern": "2026-07-28"}
MODERN = "2026-07-28"
LOG_LEVEL = {"io.modelcontextprotocol/logLevel": "debug"}


async def run(job: dict[str, Any]) -> dict[str, Any]:
    options = {"mode": MODES[job["mode"]], "message_handler": tell, **(ANSWERS if job["asks"] else {})}
    if job.get("command"):
        command, *args = job["command"]
        where = StdioServerParameters(command=command, args=args, env=job.get("env"), cwd=job.get("cwd"))
        async with Client(where, **options) as client:
            return await over(client, job)
    headers = {"Authorization": f"Bearer {job['key']}"} if job.get("key") else {}
    auth = provider(job, lambda back: AuthorizationCodeResult(**back))
    async with httpx2.AsyncClient(headers=headers, timeout=30, auth=auth) as http:
        async with Client(streamable_http_client(job["url"], http_client=http), **options) as client:
            return await over(client, job)


async def over(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    async def tools(cursor: str | None) -> tuple[list[str], str | None]:
        page = await client.list_tools(cursor=cursor)
        return [tool.name for tool in page.tools], page.next_cursor

    async def call(tool: str, arguments: dict[str, Any], progress: Any = None, meta: Any = None) -> Seen:
        result = await client.call_tool(tool, arguments, progress_callback=progress, meta=meta)
        return Seen(text_of(result.content), bool(result.is_error), result.meta)

    # A pinned client asks nothing before its first request, so nobody has told it the server's name yet.
    server = getattr(client, "server_info", None)
    name = getattr(server, "name", None)
    return await exercise(job, Connected(client.protocol_version, name, tools, call, MCPError, more(client, call)))


def more(client: Client, call: Any) -> More:
    async def prompts() -> list[str]:
        return [prompt.name for prompt in (await client.list_prompts()).prompts]

    async def prompt(name: str, arguments: dict[str, str]) -> str:
        return text_of([message.content for message in (await client.get_prompt(name, arguments)).messages])

    async def resources() -> list[str]:
        return [resource.uri for resource in (await client.list_resources()).resources]

    async def templates() -> list[str]:
        return [template.uri_template for template in (await client.list_resource_templates()).resource_templates]

    async def read(uri: str) -> tuple[list[str], str]:
        contents = (await client.read_resource(uri)).contents
        return [content.uri for content in contents], text_of(contents)

    async def complete(ref: dict[str, str], argument: dict[str, str]) -> list[str]:
        return (await client.complete(types.PromptReference(**ref), argument)).completion.values

    @asynccontextmanager
    async def watch(step: dict[str, Any]):
        uri = step.get("uri")
        if client.protocol_version >= MODERN:
            wanted = {"resource_subscriptions": [uri]} if uri else {f"{step['list']}_list_changed": True}
            async with client.listen(**wanted) as changes, anyio.create_task_group() as tasks:
                tasks.start_soon(follow, changes)
                yield
                tasks.cancel_scope.cancel()
            return
        if uri:
            await client.subscribe_resource(uri)
        yield
        if uri:
            await client.unsubscribe_resource(uri)

    async def logged(tool: str) -> Seen:
        if client.protocol_version >= MODERN:
            return await call(tool, {}, meta=LOG_LEVEL)
        await client.set_logging_level("debug")
        return await call(tool, {})

    return More(prompts, prompt, resources, templates, read, complete, watch, logged)


async def follow(changes: Any) -> None:
    kinds = {"ToolsListChanged": "tools/list_changed", "PromptsListChanged": "prompts/list_changed", "ResourceUpdated": "resources/updated"}
    async for change in changes:
        told.notices.append((f"notifications/{kinds[type(change).__name__]}", getattr(change, "uri", None)))


async def tell(message: Any) -> None:
    if method := getattr(message, "method", None):
        told.notices.append((method, getattr(message.params, "uri", None)))


async def elicited(_context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(**told.answer("elicitation/create", params.message))


async def sampled(_context: Any, _params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(**told.answer("sampling/createMessage"))


async def roots(_context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(**told.answer("roots/list"))


ANSWERS = {"elicitation_callback": elicited, "sampling_callback": sampled, "list_roots_callback": roots}


main(run)
