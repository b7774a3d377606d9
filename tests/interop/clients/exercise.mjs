// What every TypeScript client does once it is connected; exercise.py is the same for Python. The job and the report are
// described in driver/clients.py.

import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

// A notification that has not come by then does not come.
const TOLD_WITHIN_MS = 5000;

/**
 * Runs one job.
 *
 * @param job what to connect to and what to call
 * @param client how this SDK does it: connect() -> {revision, server}, tools(cursor), call(params, onProgress), errorCode(error), close(),
 *   and for what only some servers have: prompts(), prompt(params), resources(), read(uri), templates(), complete(params),
 *   watch({uri} or {list}) -> stop(), level() -> the `_meta` of a call that is to log
 */
export async function exercise(job, client) {
    if (job.talks) return converse(client);
    const report = { revision: null, server: null, calls: [] };
    try {
        Object.assign(report, await client.connect());
        const names = await allTools(client);
        for (const call of job.calls) report.calls.push(await one(call, names, client, job.strict));
        // Only after everything else: a broken goodbye is a fault too.
        await client.close();
    } catch (error) {
        report.fault = describe(error);
    }
    process.stdout.write(`${JSON.stringify(report)}\n`);
    // Not left to the event loop: a client that keeps a stream open would keep us here.
    process.exit(0);
}

/** Calls what each line of standard input says, over one connection, until there are no more; a line of JSON for each. */
async function converse(client) {
    const say = told => process.stdout.write(`${JSON.stringify(told)}\n`);
    try {
        say(await client.connect());
        for await (const line of createInterface({ input: process.stdin })) {
            const { tool, arguments: args, answer: reply } = JSON.parse(line);
            Object.assign(asked, { methods: [], messages: [], reply });
            try {
                const result = await client.call({ name: tool, arguments: args });
                const error = result._meta?.['dev.doorward/error'] ?? null;
                say({ text: textOf(result), isError: result.isError === true, error, asked: asked.messages });
            } catch (error) {
                say({ fault: describe(error), asked: asked.messages });
            }
        }
        await client.close();
    } catch (error) {
        say({ fault: describe(error) });
    }
    process.exit(0);
}

async function allTools(client) {
    const names = [];
    let cursor;
    do {
        const page = await client.tools(cursor);
        names.push(...page.tools.map(tool => tool.name));
        cursor = page.nextCursor;
    } while (cursor !== undefined);
    return names;
}

async function one(call, names, client, strict) {
    const done = { upstream: call.upstream, steps: [], fault: null };
    const step = async (name, work) => {
        if (done.fault) return;
        try {
            await work();
            done.steps.push(name);
        } catch (error) {
            done.fault = `${name}: ${describe(error)}`;
        }
    };
    await step('list', () => check(names.includes(call.tool), `${call.tool} is not among ${names.join(', ')}`));
    await step('call', async () => {
        const result = await client.call({ name: call.tool, arguments: call.arguments });
        const text = textOf(result);
        check(!result.isError && text.includes(call.expect), `expected ${call.expect}, got ${text}`);
    });
    await step('bad arguments', async () => {
        const result = await client.call({ name: call.tool, arguments: call.bad });
        check(result.isError === true, `expected isError, got ${textOf(result)}`);
    });
    await step('unknown tool', () => unknown(call, client, strict));
    if (call.progress) await step('progress', () => progress(call.progress, client));
    if (call.denied) await step('denied', () => denied(call.denied, client));
    for (const more of call.more ?? []) await step(more.step, () => MORE[more.step](more, client));
    return done;
}

// What only some servers have, and only some gateways pass on: the job names the steps.
const MORE = {
    async prompt({ name, arguments: args, expect }, client) {
        has((await client.prompts()).prompts.map(prompt => prompt.name), name);
        const { messages } = await client.prompt({ name, arguments: args });
        says(messages.map(message => message.content.text ?? '').join('\n'), expect);
    },
    async resource({ uri, expect }, client) {
        has((await client.resources()).resources.map(resource => resource.uri), uri);
        says(await read(uri, client), expect);
    },
    async template({ template, uri, expect }, client) {
        has((await client.templates()).resourceTemplates.map(template => template.uriTemplate), template);
        says(await read(uri, client), expect);
    },
    async completion({ ref, argument, expect }, client) {
        has((await client.complete({ ref, argument })).completion.values, expect);
    },
    async 'step up'({ tool, arguments: args, expect }, client) {
        const result = await client.call({ name: tool, arguments: args });
        check(!result.isError, textOf(result));
        says(textOf(result), expect);
    },
    async updated({ uri, tool }, client) {
        await watched({ uri }, tool, heard => heard.method === 'notifications/resources/updated' && heard.params.uri === uri, client);
    },
    async changed({ list, tool }, client) {
        await watched({ list }, tool, heard => heard.method === `notifications/${list}/list_changed`, client);
    },
    async log({ tool, atLeast }, client) {
        told.length = 0;
        await client.call({ name: tool, arguments: {}, ...(await client.level()) });
        const logged = () => told.filter(heard => heard.method === 'notifications/message').length;
        await until(() => logged() >= atLeast, () => `expected ${atLeast} messages, got ${logged()}`);
    },
    elicitation: asking,
    sampling: asking,
    roots: asking,
};

const told = [];
const asked = { methods: [], messages: [], content: {} };

/** What a client was told and did not ask for: adapters hand every notification here. */
export function tell(notification) {
    told.push(notification);
}

/** What a client answers, by the question's method. */
export const ANSWERS = {
    'elicitation/create': request => {
        asked.messages.push(request.params.message);
        return answer('elicitation/create', asked.reply ?? { action: 'accept', content: asked.content });
    },
    'sampling/createMessage': () =>
        answer('sampling/createMessage', { role: 'assistant', content: { type: 'text', text: 'a sample' }, model: 'interop' }),
    'roots/list': () => answer('roots/list', { roots: [{ uri: 'file:///interop', name: 'interop' }] }),
};

/** The capabilities of a client that answers, for jobs with a question in them. */
export const capabilities = job => (job.asks ? { elicitation: {}, sampling: {}, roots: {} } : {});

function answer(method, result) {
    asked.methods.push(method);
    return result;
}

async function asking({ method, tool, arguments: args, content, expect }, client) {
    Object.assign(asked, { methods: [], content });
    const result = await client.call({ name: tool, arguments: args });
    check(!result.isError, textOf(result));
    has(asked.methods, method);
    says(textOf(result), expect);
}

async function watched(what, tool, isIt, client) {
    const stop = await client.watch(what);
    told.length = 0;
    await client.call({ name: tool, arguments: {} });
    await until(() => told.some(isIt), () => `not told in ${TOLD_WITHIN_MS} ms, but ${JSON.stringify(told)}`);
    await stop();
}

async function read(uri, client) {
    const { contents } = await client.read(uri);
    check(contents.every(content => content.uri === uri), `asked for ${uri}, got ${contents.map(content => content.uri)}`);
    return contents.map(content => content.text ?? '').join('\n');
}

async function until(holds, otherwise) {
    const deadline = Date.now() + TOLD_WITHIN_MS;
    while (!holds() && Date.now() < deadline) await setTimeout(20);
    check(holds(), otherwise());
}

function has(list, one) {
    check(list.includes(one), `${one} is not among ${list.join(', ')}`);
}

function says(text, words) {
    check(text.includes(words), `expected ${words}, got ${text}`);
}

async function unknown(call, client, strict) {
    try {
        const result = await client.call({ name: call.unknown, arguments: {} });
        // The specification wants the error; some servers are only good for a result that says so.
        check(!strict && result.isError === true, `expected the error -32602, got ${textOf(result)}`);
    } catch (error) {
        const code = client.errorCode(error);
        check(code === -32602, `expected the error -32602, got ${code}: ${describe(error)}`);
    }
}

async function progress(call, client) {
    const seen = [];
    const result = await client.call({ name: call.tool, arguments: call.arguments }, update => seen.push(update.progress));
    check(!result.isError, textOf(result));
    const rises = seen.every((value, index) => index === 0 || value > seen[index - 1]);
    check(seen.length >= call.atLeast && rises, `expected ${call.atLeast} rising steps, got ${JSON.stringify(seen)}`);
}

// A refusal of the gateway must be something that a model can read, also for a tool that promises structured content.
async function denied(call, client) {
    const result = await client.call({ name: call.tool, arguments: call.arguments });
    check(result.isError === true && textOf(result) !== '', `expected a refusal with a text, got ${JSON.stringify(result)}`);
}

function textOf(result) {
    return (result.content ?? []).map(block => block.text ?? `(${block.type})`).join('\n');
}

function check(holds, otherwise) {
    if (!holds) throw new Error(otherwise);
}

function describe(error) {
    return `${error?.name ?? 'Error'}: ${error?.message ?? error}`.slice(0, 600);
}
