"""FastMCP's client: both eras, by `mode`. `fast.py JOB`, JOB as in driver/clients.py.

It has no call for `subscriptions/listen`, so from 2026-07-28 on there is nothing that it could watch.
"""

from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from exercise import Connected, More, Seen, exercise, main, text_of, told
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from mcp import MCPError

MODERN = "2026-07-28"
LOG_LEVEL = {"io.modelcontextprotocol/logLevel": "debug"}


async def run(job: dict[str, Any]) -> dict[str, Any]:
    client = Client(transport(job), mode=job["mode"], message_handler=tell, log_handler=logged, **(ANSWERS if job["asks"] else {}))
    async with client:
        return await over(client, job)


def transport(job: dict[str, Any]) -> Any:
    if job.get("command"):
        command, *args = job["command"]
        return StdioTransport(command, args, env=job.get("env"), cwd=job.get("cwd"), keep_alive=False)
    if job.get("sse"):
        return SSETransport(job["url"])
    return StreamableHttpTransport(job["url"], headers={"Authorization": f"Bearer {job['key']}"} if job.get("key") else {})


async def over(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    async def tools(cursor: str | None) -> tuple[list[str], str | None]:
        page = await client.list_tools_mcp(cursor=cursor)
        return [tool.name for tool in page.tools], page.next_cursor

    async def call(tool: str, arguments: dict[str, Any], progress: Any = None, meta: Any = None) -> Seen:
        result = await client.call_tool_mcp(tool, arguments, progress_handler=progress, meta=meta)
        return Seen(text_of(result.content), bool(result.is_error))

    name = getattr(client.server_info, "name", None)
    return await exercise(job, Connected(client.protocol_version, name, tools, call, MCPError, more(client, call)))


def more(client: Client, call: Any) -> More:
    async def prompts() -> list[str]:
        return [prompt.name for prompt in await client.list_prompts()]

    async def prompt(name: str, arguments: dict[str, str]) -> str:
        return text_of([message.content for message in (await client.get_prompt(name, arguments)).messages])

    async def resources() -> list[str]:
        return [str(resource.uri) for resource in await client.list_resources()]

    async def templates() -> list[str]:
        return [template.uri_template for template in await client.list_resource_templates()]

    async def read(uri: str) -> tuple[list[str], str]:
        contents = await client.read_resource(uri)
        return [str(content.uri) for content in contents], text_of(contents)

    async def complete(ref: dict[str, str], argument: dict[str, str]) -> list[str]:
        return (await client.complete(types.PromptReference(**ref), argument)).values

    @asynccontextmanager
    async def watch(step: dict[str, Any]):
        if uri := step.get("uri"):
            await client.session.subscribe_resource(uri)
        yield
        if uri:
            await client.session.unsubscribe_resource(uri)

    async def logs(tool: str) -> Seen:
        if client.protocol_version >= MODERN:
            return await call(tool, {}, meta=LOG_LEVEL)
        await client.set_logging_level("debug")
        return await call(tool, {})

    return More(prompts, prompt, resources, templates, read, complete, watch, logs)


async def tell(message: Any) -> None:
    if method := getattr(message, "method", None):
        told.notices.append((method, getattr(message.params, "uri", None)))


async def logged(_message: Any) -> None:
    """Told by `tell` already; without this it goes to stderr."""


async def elicited(_message: str, _type: Any, _params: Any, _context: Any) -> Any:
    # What is returned is accepted.
    return told.answer("elicitation/create")["content"]


async def sampled(_messages: Any, _params: Any, _context: Any) -> str:
    return told.answer("sampling/createMessage")["content"]["text"]


async def roots(_context: Any) -> list[types.Root]:
    return [types.Root(**root) for root in told.answer("roots/list")["roots"]]


ANSWERS = {"elicitation_handler": elicited, "sampling_handler": sampled, "roots": roots}


main(run)
