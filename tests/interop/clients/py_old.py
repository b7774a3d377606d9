"""The official Python SDK, line 1.x: knows the revisions with a handshake only. `py_old.py JOB`, JOB as in driver/clients.py."""

from contextlib import asynccontextmanager
from typing import Any

import httpx
from consent import provider
from exercise import Connected, More, Seen, exercise, main, text_of, told
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError


async def run(job: dict[str, Any]) -> dict[str, Any]:
    if job.get("command"):
        command, *args = job["command"]
        async with stdio_client(StdioServerParameters(command=command, args=args, env=job.get("env"), cwd=job.get("cwd"))) as (read, write):
            return await over(read, write, job)
    if job.get("sse"):
        async with sse_client(job["url"]) as (read, write):
            return await over(read, write, job)
    headers = {"Authorization": f"Bearer {job['key']}"} if job.get("key") else {}
    auth = provider(job, lambda back: (back["code"], back["state"]))
    async with httpx.AsyncClient(headers=headers, timeout=30, auth=auth) as client:
        async with streamable_http_client(job["url"], http_client=client) as (read, write, _session):
            return await over(read, write, job)


async def over(read: Any, write: Any, job: dict[str, Any]) -> dict[str, Any]:
    async with ClientSession(read, write, message_handler=tell, **(ANSWERS if job["asks"] else {})) as session:
        agreed = await session.initialize()

        async def tools(cursor: str | None) -> tuple[list[str], str | None]:
            page = await session.list_tools(cursor)
            return [tool.name for tool in page.tools], page.nextCursor

        async def call(tool: str, arguments: dict[str, Any], progress: Any = None) -> Seen:
            result = await session.call_tool(tool, arguments, progress_callback=progress)
            return Seen(text_of(result.content), result.isError, result.meta)

        connected = Connected(str(agreed.protocolVersion), agreed.serverInfo.name, tools, call, McpError, more(session, call))
        return await exercise(job, connected)


def more(session: ClientSession, call: Any) -> More:
    async def prompts() -> list[str]:
        return [prompt.name for prompt in (await session.list_prompts()).prompts]

    async def prompt(name: str, arguments: dict[str, str]) -> str:
        return text_of([message.content for message in (await session.get_prompt(name, arguments)).messages])

    async def resources() -> list[str]:
        return [str(resource.uri) for resource in (await session.list_resources()).resources]

    async def templates() -> list[str]:
        return [template.uriTemplate for template in (await session.list_resource_templates()).resourceTemplates]

    async def read(uri: str) -> tuple[list[str], str]:
        contents = (await session.read_resource(types.AnyUrl(uri))).contents
        return [str(content.uri) for content in contents], text_of(contents)

    async def complete(ref: dict[str, str], argument: dict[str, str]) -> list[str]:
        return (await session.complete(types.PromptReference(**ref), argument)).completion.values

    @asynccontextmanager
    async def watch(step: dict[str, Any]):
        if uri := step.get("uri"):
            await session.subscribe_resource(types.AnyUrl(uri))
        yield
        if uri:
            await session.unsubscribe_resource(types.AnyUrl(uri))

    async def logged(tool: str) -> Seen:
        await session.set_logging_level("debug")
        return await call(tool, {})

    return More(prompts, prompt, resources, templates, read, complete, watch, logged)


async def tell(message: Any) -> None:
    if isinstance(message, types.ServerNotification):
        uri = getattr(message.root.params, "uri", None)
        told.notices.append((message.root.method, uri and str(uri)))


async def elicited(_context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(**told.answer("elicitation/create", params.message))


async def sampled(_context: Any, _params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(**told.answer("sampling/createMessage"))


async def roots(_context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(**told.answer("roots/list"))


ANSWERS = {"elicitation_callback": elicited, "sampling_callback": sampled, "list_roots_callback": roots}


main(run)
