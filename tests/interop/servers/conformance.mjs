// The server behind the conformance suite: `conformance.mjs http|stdio [--era modern|legacy|both] [--revision REVISION]`.
// What it offers stands in offers.mjs; here is how each era is served. --revision is the newest that a legacy server knows.
// Over HTTP it takes a port from the system and names its address on stderr.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { packaged } from '../packages.mjs';
import { conformanceServer, sharedState } from './offers.mjs';

const { createMcpHandler, isLegacyRequest, SUPPORTED_PROTOCOL_VERSIONS } = packaged('@modelcontextprotocol/server');
const { serveStdio, StdioServerTransport } = packaged('@modelcontextprotocol/server/stdio');
const { localhostHostValidation, localhostOriginValidation, NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } =
    packaged('@modelcontextprotocol/node');

// How long a client may take before it comes back to a stream that was closed.
const RETRY_MS = 300;

const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { era: { type: 'string', default: 'both' }, revision: { type: 'string', default: '2025-11-25' } },
});
const shared = sharedState();
const supportedProtocolVersions = SUPPORTED_PROTOCOL_VERSIONS.filter(revision => revision <= values.revision);

// The servers of sessions that are open, with the resources that each wants to hear of.
const open = new Map();

function sessionServer() {
    const server = conformanceServer(shared, { supportedProtocolVersions });
    const watched = new Set();
    server.server.setRequestHandler('resources/subscribe', ({ params }) => (watched.add(params.uri), {}));
    server.server.setRequestHandler('resources/unsubscribe', ({ params }) => (watched.delete(params.uri), {}));
    open.set(server, watched);
    server.server.onclose = () => open.delete(server);
    return server;
}

function tellSessions(what, uri) {
    for (const [server, watched] of open) {
        if (what !== 'updated') server.follow(what);
        else if (watched.has(uri)) server.server.sendResourceUpdated({ uri });
    }
}

function serveHttp() {
    const modern = createMcpHandler(() => conformanceServer(shared), { legacy: 'reject' });
    const { notify } = modern;
    const tellListeners = {
        tools: () => notify.toolsChanged(),
        prompts: () => notify.promptsChanged(),
        updated: uri => notify.resourceUpdated(uri),
    };
    shared.tell = (what, uri) => {
        tellListeners[what](uri);
        tellSessions(what, uri);
    };
    const eras = { modern: toNodeHandler(modern), legacy: sessions() };
    const checks = [localhostHostValidation(), localhostOriginValidation()];
    const http = createServer(async (request, response) => {
        if (!checks.every(passes => passes(request, response))) return;
        if (values.era !== 'both') return eras[values.era](request, response);
        const body = await json(request);
        const legacy = await isLegacyRequest(await toWebRequest(request, body));
        return eras[legacy ? 'legacy' : 'modern'](request, response, body);
    });
    http.listen(0, '127.0.0.1', () => console.error(`listening on http://127.0.0.1:${http.address().port}/mcp`));
}

// The sessions of clients with a handshake: each has a transport, and a memory of what was sent, to be taken up again.
function sessions() {
    const transports = new Map();
    return async (request, response, read) => {
        const id = request.headers['mcp-session-id'];
        if (transports.has(id)) return transports.get(id).handleRequest(request, response, read);
        const body = read ?? (await json(request));
        if (id !== undefined) return refuse(response, 404, -32001, 'Session not found', body);
        const transport = new NodeStreamableHTTPServerTransport({
            sessionIdGenerator: randomUUID,
            onsessioninitialized: session => void transports.set(session, transport),
            onsessionclosed: session => void transports.delete(session),
            eventStore: events(),
            retryInterval: RETRY_MS,
        });
        await sessionServer().connect(transport);
        await transport.handleRequest(request, response, body);
        // Whoever did not shake hands has left a transport behind.
        if (transport.sessionId === undefined) await transport.close();
    };
}

function refuse(response, status, code, message, body) {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: body?.id ?? null, error: { code, message } }));
}

function events() {
    const kept = [];
    return {
        storeEvent: async (stream, message) => `${kept.push({ stream, message }) - 1}`,
        getStreamIdForEventId: async id => kept[Number(id)]?.stream,
        replayEventsAfter: async (id, { send }) => {
            const { stream } = kept[Number(id)] ?? {};
            for (const [later, event] of kept.entries()) {
                const isAnswer = Object.keys(event.message).length > 0;
                if (later > Number(id) && event.stream === stream && isAnswer) await send(`${later}`, event.message);
            }
            return stream;
        },
    };
}

async function json(request) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    try {
        return JSON.parse(Buffer.concat(chunks).toString());
    } catch {
        return undefined;
    }
}

async function serveOneStdio() {
    if (values.era !== 'legacy') return serveStdio(sessionServer, { legacy: values.era === 'modern' ? 'reject' : 'serve' });
    shared.tell = tellSessions;
    await sessionServer().connect(new StdioServerTransport());
}

if (positionals[0] === 'http') serveHttp();
else await serveOneStdio();
