// The official TypeScript SDK, line 2.x: both eras, by `versionNegotiation`. `ts-new.mjs JOB`, JOB as in driver/clients.py.
//
// Its mode `auto` starts a stdio server twice: a sibling that is only asked `server/discover`, then the one it works with.

import { packaged } from '../packages.mjs';
import { agreed, Consent } from './consent.mjs';
import { ANSWERS, capabilities, exercise, tell } from './exercise.mjs';

const { Client, StreamableHTTPClientTransport, UnauthorizedError } = packaged('@modelcontextprotocol/client');
const { StdioClientTransport } = packaged('@modelcontextprotocol/client/stdio');

const job = JSON.parse(process.argv[2]);
const modes = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const versionNegotiation = { mode: modes[job.mode] };
const client = new Client({ name: 'interop-ts-new', version: '1.0.0' }, { versionNegotiation, capabilities: capabilities(job) });
client.fallbackNotificationHandler = tell;
if (job.asks) for (const [method, answer] of Object.entries(ANSWERS)) client.setRequestHandler(method, answer);

const isModern = () => client.getNegotiatedProtocolVersion() >= '2026-07-28';

const consent = job.oauth ? new Consent(job.oauth) : null;
let over;
const agree = work => agreed(work, () => over, consent, UnauthorizedError, back => back);

function transport() {
    if (job.command) {
        const [command, ...args] = job.command;
        return new StdioClientTransport({ command, args, env: job.env, cwd: job.cwd });
    }
    const headers = job.key ? { Authorization: `Bearer ${job.key}` } : {};
    return new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers }, ...(consent && { authProvider: consent }) });
}

await exercise(job, {
    async connect() {
        await agree(() => client.connect((over = transport())));
        return { revision: client.getNegotiatedProtocolVersion(), server: client.getServerVersion()?.name };
    },
    tools: cursor => client.listTools(cursor === undefined ? {} : { cursor }),
    call: (params, onprogress) => agree(() => client.callTool(params, onprogress ? { onprogress } : {})),
    errorCode: error => error.code,
    close: () => client.close(),
    prompts: () => client.listPrompts(),
    prompt: params => client.getPrompt(params),
    resources: () => client.listResources(),
    templates: () => client.listResourceTemplates(),
    read: uri => client.readResource({ uri }),
    complete: params => client.complete(params),
    async watch({ uri, list }) {
        if (isModern()) {
            const subscription = await client.listen(uri ? { resourceSubscriptions: [uri] } : { [`${list}ListChanged`]: true });
            return () => subscription.close();
        }
        if (uri) await client.subscribeResource({ uri });
        return async () => uri && client.unsubscribeResource({ uri });
    },
    async level() {
        if (isModern()) return { _meta: { 'io.modelcontextprotocol/logLevel': 'debug' } };
        await client.setLoggingLevel('debug');
        return {};
    },
});
