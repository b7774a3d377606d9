// What an application on a TypeScript SDK has to do for access tokens: say who it is, keep what it is given, and send its person to the
// authorization server. Here the person is a request whose redirect is read. Discovery, PKCE and tokens are the SDK's.

const REDIRECT = 'http://127.0.0.1:9/callback';

export class Consent {
    /** @param oauth issuer and clientId, see driver/clients.py */
    constructor({ issuer, clientId }) {
        this.client = { client_id: clientId, issuer };
    }
    get redirectUrl() {
        return REDIRECT;
    }
    get clientMetadata() {
        const none = { token_endpoint_auth_method: 'none' };
        return { client_name: 'interop', redirect_uris: [REDIRECT], grant_types: ['authorization_code'], response_types: ['code'], ...none };
    }
    state() {
        this.expected = Math.random().toString(36);
        return this.expected;
    }
    clientInformation() {
        return this.client;
    }
    tokens() {
        return this.kept;
    }
    saveTokens(tokens) {
        this.kept = tokens;
    }
    codeVerifier() {
        return this.verifier;
    }
    saveCodeVerifier(verifier) {
        this.verifier = verifier;
    }
    async redirectToAuthorization(url) {
        const answer = await fetch(url, { redirect: 'manual' });
        const back = new URL(answer.headers.get('location') ?? 'about:blank').searchParams;
        if (back.get('state') !== this.expected) throw new Error(`not sent back: HTTP ${answer.status}`);
        this.back = back;
    }
}

/**
 * Works, and once more where the SDK has sent the person away meanwhile.
 *
 * @param work with a transport; the SDK throws from it where a person has to agree first
 * @param transport the transport of that moment, whose `finishAuth` fetches the token
 * @param UnauthorizedError the SDK's
 */
export async function agreed(work, transport, consent, UnauthorizedError, callback) {
    try {
        return await work();
    } catch (error) {
        if (!consent || !(error instanceof UnauthorizedError)) throw error;
        await transport().finishAuth(callback(consent.back));
        return await work();
    }
}
