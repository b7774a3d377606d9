// MCP Inspector's command line: both eras, by `--protocol-era`. `inspector.mjs JOB`, JOB as in driver/clients.py.
//
// Each request is a process of its own, with a connection of its own. It looks a tool up in the list before it calls it, so an unknown
// one is its own error and never reaches a server.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { installed } from '../packages.mjs';
import { exercise } from './exercise.mjs';

const INSPECTOR = `${installed}node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js`;
const UNKNOWN_TOOL = 'tool_not_found';

const job = JSON.parse(process.argv[2]);
const run = promisify(execFile);
const lists = new Map();

const pairs = (option, values) => Object.entries(values).flatMap(([name, value]) => [option, `${name}=${value}`]);

function connection() {
    if (job.url) {
        const key = job.key ? ['--header', `Authorization: Bearer ${job.key}`] : [];
        return ['--transport', job.sse ? 'sse' : 'http', '--server-url', job.url, ...key];
    }
    // What follows `--` is the server's, also where it looks like an option.
    return [...pairs('-e', job.env ?? {}), ...(job.cwd ? ['--cwd', job.cwd] : []), '--', ...job.command];
}

async function request(method, ...options) {
    const words = ['--cli', '--quiet', '--format', 'json', '--protocol-era', job.mode, '--method', method, ...options, ...connection()];
    // A result with `isError` has an exit code as well.
    const { stdout, stderr } = await run(process.execPath, [INSPECTOR, ...words]).catch(failed => failed);
    const [said] = [...stdout.split('\n'), ...stderr.split('\n')].filter(line => /^\{"(result|error)"/.test(line)).map(JSON.parse);
    if (said?.result) return said.result;
    throw Object.assign(new Error(said?.error.message ?? `said ${stdout}${stderr}`), { code: said?.error.code });
}

function listed(method) {
    if (!lists.has(method)) lists.set(method, request(method));
    return lists.get(method);
}

await exercise(job, {
    async connect() {
        const { protocolVersion, serverInfo } = await request('initialize');
        return { revision: protocolVersion, server: serverInfo?.name };
    },
    tools: () => listed('tools/list'),
    call: ({ name, arguments: args }) => request('tools/call', '--tool-name', name, '--tool-args-json', JSON.stringify(args)),
    errorCode: error => (error.code === UNKNOWN_TOOL ? -32602 : error.code),
    close: () => {},
    prompts: () => listed('prompts/list'),
    prompt: ({ name, arguments: args }) => request('prompts/get', '--prompt-name', name, ...pairs('--prompt-args', args)),
    resources: () => listed('resources/list'),
    templates: () => listed('resources/templates/list'),
    read: uri => request('resources/read', '--uri', uri),
});
