// A server of revision 2026-07-28 and no other, on the official TypeScript SDK 2.x: `modern.mjs stdio` or `modern.mjs http`.
// Over HTTP it takes a port from the system and names its address on stderr.

import { createServer } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { packaged } from '../packages.mjs';

const { McpServer, createMcpHandler } = packaged('@modelcontextprotocol/server');
const { serveStdio } = packaged('@modelcontextprotocol/server/stdio');
const { localhostHostValidation, toNodeHandler } = packaged('@modelcontextprotocol/node');
const { z } = packaged('zod');

// The work of a step. Without any, progress and answer arrive together, and SDKs differ in which of them they look at first.
const STEP_MS = 50;
const readOnly = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
const said = text => [{ type: 'text', text }];

function server() {
    const tools = new McpServer({ name: 'interop-modern-ts', version: '1.0.0' });
    const echo = { title: 'Echo', description: 'Says it again.', inputSchema: z.strictObject({ text: z.string() }), annotations: readOnly };
    tools.registerTool('echo', echo, ({ text }) => ({ content: said(`echo: ${text}`) }));

    const add = {
        title: 'Add',
        description: 'Adds two numbers; tells its progress in two steps.',
        inputSchema: z.strictObject({ a: z.number(), b: z.number() }),
        outputSchema: z.strictObject({ sum: z.number() }),
        annotations: readOnly,
    };
    tools.registerTool('add', add, async ({ a, b }, ctx) => {
        const progressToken = ctx.mcpReq._meta?.progressToken;
        for (const progress of progressToken === undefined ? [] : [1, 2]) {
            await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 2 } });
            await setTimeout(STEP_MS);
        }
        return { content: said(JSON.stringify({ sum: a + b })), structuredContent: { sum: a + b } };
    });
    return tools;
}

if (process.argv[2] === 'http') {
    const handler = toNodeHandler(createMcpHandler(server, { legacy: 'reject' }));
    const isLocal = localhostHostValidation();
    const http = createServer((request, response) => {
        if (isLocal(request, response)) handler(request, response);
    });
    http.listen(0, '127.0.0.1', () => console.error(`listening on http://127.0.0.1:${http.address().port}/mcp`));
} else {
    serveStdio(server, { legacy: 'reject' });
}
