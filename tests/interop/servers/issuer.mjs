// A small authorization server: RFC 8414 metadata, the authorization code grant with PKCE (RFC 7636) for one public client, and signed
// access tokens (RFC 9068) for the resource that was asked for. `issuer.mjs RESOURCE`.
//
// Its person agrees to everything at once. What it gives out it says in a line each, which the driver reads.

import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { createServer } from 'node:http';

const [resource] = process.argv.slice(2);
const CLIENT = 'interop';
const PERSON = 'alice';
// Nothing listens there: a client of these tests reads the redirect in place of following it.
const REDIRECT = 'http://127.0.0.1:9/callback';

const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const key = { ...publicKey.export({ format: 'jwk' }), kid: 'k1', use: 'sig', alg: 'ES256' };
const codes = new Map();

const server = createServer(async (request, response) => {
    const url = new URL(request.url, issuer());
    const json = (status, body) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    const routes = {
        '/.well-known/oauth-authorization-server': () => json(200, metadata()),
        '/jwks': () => json(200, { keys: [key] }),
        '/authorize': () => {
            const to = authorized(url.searchParams);
            return to ? response.writeHead(302, { location: to }).end() : json(400, { error: 'invalid_request' });
        },
        '/token': async () => {
            const token = exchanged(new URLSearchParams(await text(request)));
            return token ? json(200, token) : json(400, { error: 'invalid_grant' });
        },
    };
    await (routes[url.pathname] ?? (() => json(404, {})))();
});

function issuer() {
    return `http://127.0.0.1:${server.address().port}`;
}

function metadata() {
    return {
        issuer: issuer(),
        authorization_endpoint: `${issuer()}/authorize`,
        token_endpoint: `${issuer()}/token`,
        jwks_uri: `${issuer()}/jwks`,
        response_types_supported: ['code'],
        grant_types_supported: ['authorization_code'],
        code_challenge_methods_supported: ['S256'],
        token_endpoint_auth_methods_supported: ['none'],
        authorization_response_iss_parameter_supported: true,
    };
}

/** Where an authorization request leads; nowhere where it is not one of the client that is known here. */
function authorized(asked) {
    const wanted = { response_type: 'code', client_id: CLIENT, redirect_uri: REDIRECT, code_challenge_method: 'S256', resource };
    if (Object.entries(wanted).some(([name, value]) => asked.get(name) !== value) || !asked.get('code_challenge')) return null;
    const code = randomBytes(16).toString('hex');
    codes.set(code, { challenge: asked.get('code_challenge'), scope: asked.get('scope') ?? '' });
    const to = new URL(REDIRECT);
    to.search = new URLSearchParams({ code, state: asked.get('state') ?? '', iss: issuer() });
    return to.href;
}

/** The token of a code, once. */
function exchanged(form) {
    const wanted = { grant_type: 'authorization_code', client_id: CLIENT, redirect_uri: REDIRECT, resource };
    const granted = codes.get(form.get('code'));
    codes.delete(form.get('code'));
    if (!granted || Object.entries(wanted).some(([name, value]) => form.get(name) !== value)) return null;
    if (createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url') !== granted.challenge) return null;
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss: issuer(), aud: resource, sub: PERSON, client_id: CLIENT, scope: granted.scope, iat: now, exp: now + 600 };
    const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
    const message = `${part({ alg: 'ES256', typ: 'at+jwt', kid: key.kid })}.${part({ ...claims, jti: randomBytes(8).toString('hex') })}`;
    const signature = sign('sha256', Buffer.from(message), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
    process.stdout.write(`gave a token with "${granted.scope}"\n`);
    return { access_token: `${message}.${signature}`, token_type: 'Bearer', expires_in: 600, scope: granted.scope };
}

async function text(request) {
    let body = '';
    for await (const chunk of request) body += chunk;
    return body;
}

server.listen(0, '127.0.0.1', () => process.stdout.write(`listening on ${issuer()}\n`));
