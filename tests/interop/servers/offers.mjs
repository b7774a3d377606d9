// What the conformance suite expects of a server, on the official TypeScript SDK 2.x: every tool, prompt and resource is here
// because a scenario wants it, or a step of the clients. A question is returned, never pushed: to a client with a handshake
// the SDK itself turns it into a request and calls the handler again, so each is written once and serves both eras.
//
// A server is made for each session or each request; what they share stands in `shared`.

import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { packaged } from '../packages.mjs';

const { McpServer, ResourceTemplate, acceptedContent, completable, createRequestStateCodec, fromJsonSchema, inputRequired } =
    packaged('@modelcontextprotocol/server');
const { z } = packaged('zod');

const CAPABILITIES = 'io.modelcontextprotocol/clientCapabilities';
const STEP_MS = 50;
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==';
const WATCHED = 'test://watched-resource';

const nothing = z.object({});
const text = words => ({ type: 'text', text: words });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const said = (...blocks) => ({ content: blocks.map(block => (typeof block === 'string' ? text(block) : block)) });
const user = content => ({ role: 'user', content });
const embedded = (uri, mimeType, words) => ({ type: 'resource', resource: { uri, mimeType, text: words } });
const form = (message, properties, required = Object.keys(properties)) =>
    inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required } });
const sampled = (prompt, maxTokens = 100) => inputRequired.createMessage({ messages: [user(text(prompt))], maxTokens });
const starting = words => value => words.filter(word => word.startsWith(value));
const answered = (key, ctx) => ctx.mcpReq.inputResponses?.[key];

/** What the servers of one process have in common: the key of their sealed state, and what has changed. */
export function sharedState() {
    // Told to whoever listens: `tools`, `prompts` or `updated`; set by the entry, which knows its sessions.
    return { seal: createRequestStateCodec({ key: randomBytes(32) }), changes: { tools: 0, prompts: 0 }, tell: () => {} };
}

/** A server of its own for one session (handshake) or one request (2026-07-28). */
export function conformanceServer(shared, options = {}) {
    const server = new McpServer(
        { name: 'interop-conformance', version: '1.0.0' },
        {
            ...options,
            requestState: { verify: shared.seal.verify },
            capabilities: {
                tools: { listChanged: true },
                prompts: { listChanged: true },
                resources: { listChanged: true, subscribe: true },
                logging: {},
                completions: {},
            },
        },
    );
    const tool = (name, description, run, inputSchema = nothing) => server.registerTool(name, { description, inputSchema }, run);
    contents(tool);
    notices(tool, shared);
    questions(tool);
    rounds(tool, shared, server);
    prompts(server);
    resources(server);
    changing(server, shared);
    return server;
}

// What each kind of content looks like, and an error.
function contents(tool) {
    tool('test_simple_text', 'Text.', () => said('This is a simple text response for testing.'));
    tool('test_image_content', 'An image.', () => said(image));
    tool('test_audio_content', 'Sound.', () => said({ type: 'audio', data: WAV, mimeType: 'audio/wav' }));
    tool('test_embedded_resource', 'A resource.', () =>
        said(embedded('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')));
    tool('test_multiple_content_types', 'Text, an image and a resource.', () =>
        said('Multiple content types test:', image, embedded('test://mixed-content-resource', 'application/json', '{"test":"data"}')));
    tool('test_error_handling', 'Fails.', () => {
        throw new Error('This tool intentionally returns an error for testing');
    });
    tool('json_schema_2020_12_tool', 'Has a schema with every keyword that gets lost easily.', () => said('valid'), fromJsonSchema(SCHEMA));
    tool('test_custom_header', 'Its region is repeated in a header.', ({ region }) => said(`region: ${region}`), fromJsonSchema({
        type: 'object',
        properties: { region: { type: 'string', 'x-mcp-header': 'Region' } },
    }));
}

// What is sent before the answer, and what is told to those who listen.
function notices(tool, shared) {
    const log = async (_, ctx) => {
        for (const words of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
            await ctx.mcpReq.log('info', words);
            await setTimeout(STEP_MS);
        }
        return said('logged');
    };
    tool('test_tool_with_logging', 'Logs three times.', log);
    tool('test_logging_tool', 'Logs three times, to who wants to hear it.', log);
    tool('test_tool_with_progress', 'Tells its progress.', async (_, ctx) => {
        const progressToken = ctx.mcpReq._meta?.progressToken;
        for (const progress of [0, 50, 100]) {
            if (progressToken !== undefined) {
                await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
            }
            await setTimeout(STEP_MS);
        }
        return said('done');
    });
    tool('test_reconnection', 'Closes its stream before it answers.', async (_, ctx) => {
        ctx.http?.closeSSE?.();
        await setTimeout(2 * STEP_MS);
        return said('answered on another stream');
    });
    const trigger = (name, what, tell) => tool(name, `Changes ${what}.`, () => (tell(), said('changed')));
    trigger('test_trigger_tool_change', 'the list of tools', () => change(shared, 'tools'));
    trigger('test_trigger_prompt_change', 'the list of prompts', () => change(shared, 'prompts'));
    trigger('test_trigger_resource_update', 'the watched resource', () => shared.tell('updated', WATCHED));
}

// Each change can be told from the one before, also by who missed that.
function change(shared, what) {
    shared.changes[what] += 1;
    shared.tell(what);
}

// The questions of servers before 2026-07-28: a form, a form with defaults, a form of choices, a sample.
function questions(tool) {
    const asks = (name, description, key, question, answer, inputSchema) =>
        tool(name, description, (args, ctx) => {
            const given = answered(key, ctx);
            return given ? said(answer(given)) : inputRequired({ inputRequests: { [key]: question(args) } });
        }, inputSchema);
    const completed = ({ action, content }) => `Elicitation completed: action=${action}, content=${JSON.stringify(content ?? {})}`;

    asks('test_sampling', 'Asks for a sample.', 'sample', ({ prompt }) => sampled(prompt), ({ content }) =>
        `LLM response: ${content?.text}`, z.object({ prompt: z.string() }));
    const name = {
        username: { type: 'string', description: "User's response" },
        email: { type: 'string', description: "User's email address" },
    };
    asks('test_elicitation', 'Asks for a name.', 'user', ({ message }) => form(message, name), ({ action, content }) =>
        `User response: action=${action}, content=${JSON.stringify(content ?? {})}`, z.object({ message: z.string() }));
    asks('test_elicitation_sep1034_defaults', 'Asks with defaults.', 'form', () => form('Please review', {
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
        verified: { type: 'boolean', default: true },
    }, []), completed);
    const options = ['option1', 'option2', 'option3'];
    const titled = ['value1', 'value2', 'value3'].map((value, index) => ({ const: value, title: `Option ${index + 1}` }));
    asks('test_elicitation_sep1330_enums', 'Asks with choices.', 'form', () => form('Please choose', {
        untitledSingle: { type: 'string', enum: options },
        titledSingle: { type: 'string', oneOf: titled },
        legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
        untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
        titledMulti: { type: 'array', items: { anyOf: titled } },
    }, []), completed);
    asks('test_missing_capability', 'Cannot do without sampling.', 'sample', () => sampled('Anything'), () => 'sampled');
    asks('test_streaming_elicitation', 'Asks in the middle of its work.', 'confirm', () => form('Go on?', CONFIRM), () => 'went on');
}

// The questions of 2026-07-28: several at once, several in turn, with state that nobody may change.
function rounds(tool, { seal }, server) {
    const named = (message, key) => form(message, { [key]: { type: 'string' } });
    const once = (name, description, requests, answer) => tool(`test_input_required_result_${name}`, description, async (_, ctx) => {
        const inputRequests = requests(ctx);
        const keys = Object.keys(inputRequests);
        return keys.length > 0 && keys.every(key => answered(key, ctx))
            ? said(answer(ctx))
            : inputRequired({ inputRequests, requestState: await seal.mint({ name }) });
    });
    tool('test_input_required_result_elicitation', 'Asks for a name.', (_, ctx) => {
        const given = acceptedContent(ctx.mcpReq.inputResponses, 'user_name', z.object({ name: z.string() }));
        return given ? said(`Hello, ${given.name}!`) : inputRequired({ inputRequests: { user_name: named('What is your name?', 'name') } });
    });
    tool('test_input_required_result_sampling', 'Asks for a sample.', (_, ctx) => {
        const given = answered('capital_question', ctx);
        return given
            ? said(`It is said: ${given.content?.text}`)
            : inputRequired({ inputRequests: { capital_question: sampled('What is the capital of France?') } });
    });
    tool('test_input_required_result_list_roots', 'Asks for the roots.', (_, ctx) => {
        const given = answered('client_roots', ctx);
        return given
            ? said(`Roots: ${given.roots.map(root => root.uri).join(', ')}`)
            : inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
    });
    const confirm = () => ({ confirm: form('Please confirm', CONFIRM) });
    once('request_state', 'Asks, and wants its state back.', confirm, ctx =>
        ctx.mcpReq.requestState()?.name === 'request_state' ? 'state-ok' : 'the state is gone');
    once('tampered_state', 'Asks, and knows its state.', confirm, () => 'the state is whole');
    once('multiple_inputs', 'Asks three things at once.', () => ({
        user_name: named('What is your name?', 'name'),
        greeting: sampled('Generate a greeting', 50),
        client_roots: inputRequired.listRoots(),
    }), () => 'all three are here');
    once('capabilities', 'Asks what this client can be asked.', ctx => {
        const declared = ctx.mcpReq.envelope?.[CAPABILITIES] ?? server.server.getClientCapabilities() ?? {};
        return {
            ...(declared.elicitation && { user_name: named('What is your name?', 'name') }),
            ...(declared.sampling && { greeting: sampled('Generate a greeting', 50) }),
        };
    }, () => 'answered');
    tool('test_input_required_result_multi_round', 'Asks twice.', async (_, ctx) => {
        const step = ctx.mcpReq.requestState()?.step ?? 0;
        if (step === 2 && answered('step2', ctx)) return said('Both are here.');
        const second = step === 2 || (step === 1 && answered('step1', ctx));
        const inputRequests = second
            ? { step2: named('Step 2: What is your favorite color?', 'color') }
            : { step1: named('Step 1: What is your name?', 'name') };
        return inputRequired({ inputRequests, requestState: await seal.mint({ step: second ? 2 : 1 }) });
    });
}

function prompts(server) {
    const prompt = (name, description, run, argsSchema) => server.registerPrompt(name, { description, argsSchema }, run);
    const one = (...messages) => ({ messages: messages.map(user) });
    prompt('test_simple_prompt', 'Without arguments.', () => one(text('This is a simple prompt for testing.')));
    const among = (...words) => completable(z.string(), starting(words));
    const two = z.object({ arg1: among('paris', 'park', 'party'), arg2: among('hello', 'world') });
    prompt('test_prompt_with_arguments', 'With two arguments.', ({ arg1, arg2 }) =>
        one(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)), two);
    prompt('test_prompt_with_embedded_resource', 'Embeds a resource.', ({ resourceUri }) => one(
        embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.'),
        text('Please process the embedded resource above.'),
    ), z.object({ resourceUri: z.string() }));
    prompt('test_prompt_with_image', 'Has an image.', () => one(image, text('Please analyze the image above.')));
    prompt('test_input_required_result_prompt', 'Asks for its context.', ctx => {
        const given = acceptedContent(ctx.mcpReq.inputResponses, 'user_context');
        const question = () => form('What context should the prompt use?', { context: { type: 'string' } });
        return given ? one(text(`In the context of ${given.context}.`)) : inputRequired({ inputRequests: { user_context: question() } });
    });
}

function resources(server) {
    const resource = (uri, description, mimeType, content) => {
        const read = () => ({ contents: [{ uri, mimeType, ...content }] });
        server.registerResource(uri.replace('test://', ''), uri, { description, mimeType }, read);
    };
    resource('test://static-text', 'Text.', 'text/plain', { text: 'This is the content of the static text resource.' });
    resource('test://static-binary', 'An image.', 'image/png', { blob: PNG });
    resource(WATCHED, 'Changes when `test_trigger_resource_update` is called.', 'text/plain', { text: 'Watched resource content.' });
    resource('test://example-resource', 'Embedded by a prompt.', 'text/plain', { text: 'Example.' });
    const mimeType = 'application/json';
    const template = new ResourceTemplate('test://template/{id}/data', { complete: { id: starting(['123', '124', '200']) } });
    server.registerResource('template', template, { description: 'One for each id.', mimeType }, (uri, { id }) => ({
        contents: [{ uri: uri.href, mimeType, text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }],
    }));
}

// The entries that come and change with each change. `follow` lets a session that is open follow.
function changing(server, { changes }) {
    const entries = {};
    const put = {
        tools: description => server.registerTool('test_changed_tool', { description, inputSchema: nothing }, () => said('changed')),
        prompts: description =>
            server.registerPrompt('test_changed_prompt', { description }, () => ({ messages: [user(text('changed'))] })),
    };
    server.follow = what => {
        const description = `As of change ${changes[what]}.`;
        if (entries[what]) entries[what].update({ description });
        else entries[what] = put[what](description);
    };
    for (const what of ['tools', 'prompts']) if (changes[what] > 0) server.follow(what);
}

const CONFIRM = { ok: { type: 'boolean' } };

const SCHEMA = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: {
        address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } },
    },
    properties: {
        name: { type: 'string' },
        address: { $ref: '#/$defs/address' },
        contactMethod: { type: 'string', enum: ['phone', 'email'] },
        phone: { type: 'string' },
        email: { type: 'string' },
    },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] },
    else: { required: ['email'] },
    additionalProperties: false,
};
