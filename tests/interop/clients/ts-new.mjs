// The official TypeScript SDK, line 2.x: both eras, by `versionNegotiation`. `ts-new.mjs JOB`, JOB as in driver/clients.py.
//
// Its mode `auto` starts a stdio server twice: a sibling that is only asked `server/discover`, then the one it works with.

import { packaged } from '../packages.mjs';
import { exercise } from './exercise.mjs';

const { Client, StreamableHTTPClientTransport } = packaged('@modelcontextprotocol/client');
const { StdioClientTransport } = packaged('@modelcontextprotocol/client/stdio');

const job = JSON.parse(process.argv[2]);
const modes = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const client = new Client({ name: 'interop-ts-new', version: '1.0.0' }, { versionNegotiation: { mode: modes[job.mode] } });

function transport() {
    if (job.command) {
        const [command, ...args] = job.command;
        return new StdioClientTransport({ command, args, env: job.env, cwd: job.cwd });
    }
    const headers = job.key ? { Authorization: `Bearer ${job.key}` } : {};
    return new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers } });
}

await exercise(job, {
    async connect() {
        await client.connect(transport());
        return { revision: client.getNegotiatedProtocolVersion(), server: client.getServerVersion()?.name };
    },
    tools: cursor => client.listTools(cursor === undefined ? {} : { cursor }),
    call: (params, onprogress) => client.callTool(params, onprogress ? { onprogress } : {}),
    errorCode: error => error.code,
    close: () => client.close(),
});
