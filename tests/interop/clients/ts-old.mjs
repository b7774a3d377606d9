// The official TypeScript SDK, line 1.x: knows the revisions with a handshake only. `ts-old.mjs JOB`, JOB as in driver/clients.py.

import { packaged } from '../packages.mjs';
import { agreed, Consent } from './consent.mjs';
import { ANSWERS, capabilities, exercise, tell } from './exercise.mjs';

const { UnauthorizedError } = packaged('@modelcontextprotocol/sdk/client/auth.js');
const { Client } = packaged('@modelcontextprotocol/sdk/client/index.js');
const { SSEClientTransport } = packaged('@modelcontextprotocol/sdk/client/sse.js');
const { StdioClientTransport } = packaged('@modelcontextprotocol/sdk/client/stdio.js');
const { StreamableHTTPClientTransport } = packaged('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema } = packaged('@modelcontextprotocol/sdk/types.js');

const job = JSON.parse(process.argv[2]);
const client = new Client({ name: 'interop-ts-old', version: '1.0.0' }, { capabilities: capabilities(job) });
const questions = {
    'elicitation/create': ElicitRequestSchema,
    'sampling/createMessage': CreateMessageRequestSchema,
    'roots/list': ListRootsRequestSchema,
};
client.fallbackNotificationHandler = tell;
if (job.asks) for (const [method, answer] of Object.entries(ANSWERS)) client.setRequestHandler(questions[method], answer);

const consent = job.oauth ? new Consent(job.oauth) : null;
let over;
const agree = work => agreed(work, () => over, consent, UnauthorizedError, back => back.get('code'));

function transport() {
    if (job.command) {
        const [command, ...args] = job.command;
        return new StdioClientTransport({ command, args, env: job.env, cwd: job.cwd });
    }
    if (job.sse) return new SSEClientTransport(new URL(job.url));
    const headers = job.key ? { Authorization: `Bearer ${job.key}` } : {};
    return new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers }, ...(consent && { authProvider: consent }) });
}

await exercise(job, {
    async connect() {
        // Only the HTTP transport tells what was agreed on; over stdio it is read off on its way there.
        let revision;
        await agree(async () => {
            over = transport();
            const settle = over.setProtocolVersion?.bind(over);
            over.setProtocolVersion = version => {
                revision = version;
                settle?.(version);
            };
            await client.connect(over);
        });
        return { revision, server: client.getServerVersion()?.name };
    },
    tools: cursor => client.listTools(cursor === undefined ? {} : { cursor }),
    call: (params, onprogress) => agree(() => client.callTool(params, undefined, onprogress ? { onprogress } : {})),
    errorCode: error => error.code,
    close: () => client.close(),
    prompts: () => client.listPrompts(),
    prompt: params => client.getPrompt(params),
    resources: () => client.listResources(),
    templates: () => client.listResourceTemplates(),
    read: uri => client.readResource({ uri }),
    complete: params => client.complete(params),
    async watch({ uri }) {
        if (uri) await client.subscribeResource({ uri });
        return async () => uri && client.unsubscribeResource({ uri });
    },
    async level() {
        await client.setLoggingLevel('debug');
        return {};
    },
});
