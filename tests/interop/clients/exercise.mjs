// What every TypeScript client does once it is connected; exercise.py is the same for Python. The job and the report are
// described in driver/clients.py.

/**
 * Runs one job.
 *
 * @param job what to connect to and what to call
 * @param client how this SDK does it: connect() -> {revision, server}, tools(cursor), call(params, onProgress), errorCode(error), close()
 */
export async function exercise(job, client) {
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
    return done;
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
