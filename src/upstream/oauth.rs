//! The gateway as an OAuth client of one tool server: access tokens by the client credentials grant.
//!
//! Owns: finding the authorization server, the client's authentication, and the token until shortly before it expires. Leaves to
//! others: when a request may be sent again (`http_link`).
//!
//! INVARIANT: the credential goes to the token endpoint that the named issuer's own metadata names, and nowhere else, whatever the
//! tool server says; and no endpoint may lead further in than where that metadata stands.
//! INVARIANT: a tool server that refuses every token has a new one asked for once in [`REPLACE_EVERY`], however many calls it gets.
//! INVARIANT: each token request names the tool server as its `resource` (RFC 8707), so that its token opens nothing else.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{StatusCode, Uri};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::catalog::transport::{OAuth, PrivateKey};
use crate::clock::Clock;
use crate::config::{is_scope, read_text};
use crate::fetch::{self, Reach};
use crate::seal::{hex, random};

/// How long after a failure no token is asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a token that has not expired is replaced because the tool server refuses it.
const REPLACE_EVERY: Duration = Duration::from_secs(10);
/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a token counts that does not say so, in seconds.
const UNSAID: u64 = 300;
/// How long before its end a token is not used any more, at most, in seconds.
const MARGIN: u64 = 30;
/// How long an assertion counts, in seconds.
const ASSERTION: i64 = 60;

/// A token.
#[derive(Debug)]
struct Held {
    value: HeaderValue,
    /// The how many-th it is.
    number: u64,
    until: Instant,
}

/// What is known between two tokens.
#[derive(Debug, Default)]
struct Known {
    server: Option<Server>,
    failed: Option<(Instant, String)>,
    /// Where the tool server says that its metadata stands.
    hint: Option<Uri>,
    /// When a token was given up last because the tool server refused it.
    replaced: Option<Instant>,
    tokens: u64,
}

/// An authorization server that was found.
#[derive(Clone, Debug)]
struct Server {
    endpoint: Uri,
    /// How far out its metadata stands.
    reach: Reach,
    /// What tokens are asked for.
    resource: String,
    /// Whether the secret goes into the form.
    by_form: bool,
}

/// The tokens of one tool server.
#[derive(Debug)]
pub(super) struct Tokens {
    settings: OAuth,
    base: PathBuf,
    /// The tool server's canonical URI.
    resource: String,
    url: Uri,
    held: ArcSwapOption<Held>,
    known: Mutex<Known>,
    /// One asks at a time; the others then find its token.
    asking: Semaphore,
}

impl Tokens {
    /// Tokens for the server at `url`, by what the manifest says.
    ///
    /// # Errors
    /// What is wrong there, for the operator.
    pub(super) fn new(url: &Uri, settings: &OAuth, base: PathBuf) -> Result<Self, String> {
        fetch::parse(&settings.issuer)?;
        if settings.client_secret.is_some() == settings.private_key_jwt.is_some() {
            return Err("`auth.oauth` needs either `client_secret` or `private_key_jwt`".to_owned());
        }
        if let Some(scope) = settings.scopes.iter().find(|scope| !is_scope(scope)) {
            return Err(format!("`{}` in `auth.oauth.scopes` is not one scope", scope.escape_default()));
        }
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let resource = format!("{}{}", origin(url), url.path().trim_end_matches('/'));
        let (held, known, asking) = (ArcSwapOption::empty(), Mutex::default(), Semaphore::new(1));
        Ok(Self { settings: settings.clone(), base, resource, url: url.clone(), held, known, asking })
    }

    /// Puts a token into the headers of a request; which one it is.
    ///
    /// # Errors
    /// Why there is none; the text is for the operator.
    pub(super) async fn sign(&self, headers: &mut HeaderMap) -> Result<u64, String> {
        if let Some(number) = self.put(headers) {
            return Ok(number);
        }
        // Boxed, since it is rare and would make the state of every call larger.
        Box::pin(self.ask()).await?;
        self.put(headers).ok_or_else(|| "the token had expired when it came".to_owned())
    }

    /// The server refuses a token: another one is asked for next, unless that was just done. Where its answer says where its metadata
    /// stands, that is looked at. Tells whether another try makes sense.
    pub(super) fn refused(&self, number: u64, answer: &HeaderMap) -> bool {
        let mut known = self.lock();
        if self.held.load().as_ref().is_some_and(|held| held.number == number) {
            if known.replaced.is_some_and(|at| at.elapsed() < REPLACE_EVERY) {
                return false;
            }
            known.replaced = Some(Instant::now());
            self.held.store(None);
            known.server = None;
            known.hint = hint(answer).filter(|hint| origin(hint) == origin(&self.url));
        }
        true
    }

    fn put(&self, headers: &mut HeaderMap) -> Option<u64> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| held.until > Instant::now())?;
        headers.insert(AUTHORIZATION, held.value.clone());
        Some(held.number)
    }

    async fn ask(&self) -> Result<(), String> {
        let _turn = self.asking.acquire().await.map_err(|_| "stopped")?;
        if self.held.load().as_ref().is_some_and(|held| held.until > Instant::now()) {
            return Ok(());
        }
        if let Some((at, why)) = &self.lock().failed
            && at.elapsed() < AGAIN
        {
            return Err(why.clone());
        }
        match self.token().await {
            Ok((value, lasts)) => {
                let mut known = self.lock();
                known.tokens += 1;
                known.failed = None;
                let until = Instant::now() + lasts;
                self.held.store(Some(std::sync::Arc::new(Held { value, number: known.tokens, until })));
                Ok(())
            }
            Err(why) => {
                let why = format!("no access token from {}: {why}", self.settings.issuer);
                let mut known = self.lock();
                // It may have moved.
                known.server = None;
                known.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn token(&self) -> Result<(HeaderValue, Duration), String> {
        let (found, hint) = {
            let known = self.lock();
            (known.server.clone(), known.hint.clone())
        };
        let server = match found {
            Some(server) => server,
            None => {
                let resource = self.announced(hint).await?;
                let server = self.find(resource).await?;
                self.lock().server = Some(server.clone());
                server
            }
        };
        let (headers, form) = self.request(&server)?;
        let answer =
            fetch::post_form(&server.endpoint, headers, form, server.reach).await.map_err(|why| format!("the token endpoint: {why}"))?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status != StatusCode::OK {
            let code: String = text(&body, "error").unwrap_or("no reason").escape_default().take(80).collect();
            return Err(format!("the token endpoint refuses (HTTP {}, {code})", answer.status.as_u16()));
        }
        if !text(&body, "token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
            return Err("the token endpoint gives no bearer token".to_owned());
        }
        let token = text(&body, "access_token").filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN);
        let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut value = value.ok_or("the token endpoint gives no token that a header can hold")?;
        value.set_sensitive(true);
        let lasts = body.get("expires_in").and_then(Value::as_u64).unwrap_or(UNSAID).clamp(1, 30 * 86_400);
        Ok((value, Duration::from_secs(lasts.saturating_sub(MARGIN.min(lasts / 10)))))
    }

    /// What the server says of itself as a protected resource (RFC 9728), which must agree with the manifest: what tokens are asked
    /// for. A server that says nothing is asked for by its canonical URI.
    async fn announced(&self, hint: Option<Uri>) -> Result<String, String> {
        const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
        let path = self.url.path().trim_end_matches('/');
        let places = [format!("{}{WELL_KNOWN}{path}", origin(&self.url)), format!("{}{WELL_KNOWN}", origin(&self.url))];
        let places = hint.into_iter().chain(places.iter().take(if path.is_empty() { 1 } else { 2 }).filter_map(|place| place.parse().ok()));
        for place in places {
            let Some((said, _)) = document(&place).await? else { continue };
            let resource = text(&said, "resource").unwrap_or_default();
            let same = resource.trim_end_matches('/');
            if same != self.resource && same != origin(&self.url) {
                return Err(format!("the metadata of the tool server at {place} is of another resource than {}", self.resource));
            }
            let servers = said.get("authorization_servers").and_then(Value::as_array);
            if !servers.is_some_and(|servers| servers.iter().any(|server| server.as_str() == Some(&self.settings.issuer))) {
                return Err(format!("the tool server does not take its tokens, as its metadata at {place} says"));
            }
            return Ok(resource.to_owned());
        }
        Ok(self.resource.clone())
    }

    /// The issuer's metadata (RFC 8414, OpenID Connect Discovery), in the order that MCP prescribes.
    async fn find(&self, resource: String) -> Result<Server, String> {
        let issuer = fetch::parse(&self.settings.issuer)?;
        for place in places(&issuer) {
            let address = place.parse().map_err(|_| "its metadata has no address")?;
            let Some((said, reach)) = document(&address).await? else { continue };
            if text(&said, "issuer") != Some(&self.settings.issuer) {
                return Err(format!("the metadata at {place} is of another issuer"));
            }
            let lists = |member: &str, word: &str| {
                let words = said.get(member).and_then(Value::as_array);
                words.map(|words| words.iter().any(|one| one.as_str() == Some(word)))
            };
            if lists("grant_types_supported", "client_credentials") == Some(false) {
                return Err("it has no grant `client_credentials`".to_owned());
            }
            let endpoint = text(&said, "token_endpoint").ok_or("its metadata names no token endpoint")?;
            let methods = "token_endpoint_auth_methods_supported";
            let by_form = lists(methods, "client_secret_post") == Some(true) && lists(methods, "client_secret_basic") == Some(false);
            return Ok(Server { endpoint: fetch::parse(endpoint)?, reach, resource, by_form });
        }
        Err("it has no metadata".to_owned())
    }

    /// The headers and the form of a token request.
    fn request(&self, server: &Server) -> Result<(HeaderMap, String), String> {
        let (settings, mut headers) = (&self.settings, HeaderMap::new());
        let mut form = vec![("grant_type", "client_credentials".to_owned()), ("resource", server.resource.clone())];
        if !settings.scopes.is_empty() {
            form.push(("scope", settings.scopes.join(" ")));
        }
        if let Some(key) = &settings.private_key_jwt {
            form.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()));
            form.push(("client_assertion", self.assertion(key)?));
            form.push(("client_id", settings.client_id.clone()));
        } else if let Some(variable) = &settings.client_secret {
            let secret = super::child::variable_of_ours(&variable.from_env).map_err(|error| error.to_string())?;
            let secret = secret.to_str().map(str::trim).ok_or_else(|| format!("`{}` is not text", variable.from_env))?;
            if server.by_form {
                form.extend([("client_id", settings.client_id.clone()), ("client_secret", secret.to_owned())]);
            } else {
                let both = STANDARD.encode(format!("{}:{}", quoted(&settings.client_id), quoted(secret)));
                let mut value = HeaderValue::from_str(&format!("Basic {both}")).map_err(|_| "the secret cannot be sent")?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
        }
        let form: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
        Ok((headers, form.join("&")))
    }

    /// A proof of who asks (RFC 7523), made for this issuer and good once.
    fn assertion(&self, key: &PrivateKey) -> Result<String, String> {
        let (file, client) = (self.base.join(&key.file), &self.settings.client_id);
        let pem = read_text(&file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        let mut nonce = [0; 16];
        random(&mut nonce).map_err(|error| error.to_string())?;
        let now = Clock::system().unix_seconds();
        let claims =
            json!({ "iss": client, "sub": client, "aud": self.settings.issuer, "jti": hex(&nonce), "iat": now, "exp": now + ASSERTION });
        let signed = |key: &EncodingKey, algorithm: Algorithm, word: &str| {
            let mut header = json!({ "alg": word, "typ": "JWT" });
            if let Some(kid) = &self.settings.private_key_jwt.as_ref().and_then(|key| key.kid.clone()) {
                header["kid"] = kid.as_str().into();
            }
            let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
            let message = format!("{}.{}", encode(&header), encode(&claims));
            jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).ok().map(|signature| format!("{message}.{signature}"))
        };
        let pem = pem.as_bytes();
        let by_curve = EncodingKey::from_ec_pem(pem)
            .ok()
            .and_then(|key| signed(&key, Algorithm::ES256, "ES256").or_else(|| signed(&key, Algorithm::ES384, "ES384")));
        let by_rsa = || EncodingKey::from_rsa_pem(pem).ok().and_then(|key| signed(&key, Algorithm::RS256, "RS256"));
        let by_ed = || EncodingKey::from_ed_pem(pem).ok().and_then(|key| signed(&key, Algorithm::EdDSA, "EdDSA"));
        by_curve.or_else(by_rsa).or_else(by_ed).ok_or_else(|| format!("{} is no private key that can sign", file.display()))
    }
}

/// Where an issuer's metadata may stand.
fn places(issuer: &Uri) -> Vec<String> {
    let (origin, path) = (origin(issuer), issuer.path().trim_end_matches('/'));
    let (oauth, openid) = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration");
    match path {
        "" => vec![format!("{origin}{oauth}"), format!("{origin}{openid}")],
        _ => vec![format!("{origin}{oauth}{path}"), format!("{origin}{openid}{path}"), format!("{origin}{path}{openid}")],
    }
}

/// A JSON document, where there is one, and from how far out it came.
async fn document(place: &Uri) -> Result<Option<(Value, Reach)>, String> {
    let answer = fetch::get(place).await.map_err(|why| format!("{place}: {why}"))?;
    match answer.status.as_u16() {
        200 => match serde_json::from_slice(&answer.body) {
            Ok(said) => Ok(Some((said, answer.reach))),
            Err(_) => Err(format!("{place} is not JSON")),
        },
        // Servers without such a document say so in many ways.
        400..=499 => Ok(None),
        status => Err(format!("{place}: HTTP {status}")),
    }
}

fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{}", uri.scheme_str().unwrap_or_default(), authority).to_ascii_lowercase()
}

fn text<'v>(value: &'v Value, member: &str) -> Option<&'v str> {
    value.get(member).and_then(Value::as_str)
}

/// The metadata's place in a challenge (RFC 9728, 5.1).
fn hint(answer: &HeaderMap) -> Option<Uri> {
    let challenge = answer.get(WWW_AUTHENTICATE)?.to_str().ok()?;
    let (_, rest) = challenge.split_once("resource_metadata=\"")?;
    fetch::parse(rest.split('"').next()?).ok()
}

/// A value of a form (RFC 6749, appendix B).
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuers_metadata_is_looked_for_in_the_order_of_the_protocol() {
        let at = |issuer: &str| places(&issuer.parse().unwrap()).join(" ");
        let (oauth, openid) = (".well-known/oauth-authorization-server", ".well-known/openid-configuration");
        assert_eq!(at("https://as.example"), format!("https://as.example/{oauth} https://as.example/{openid}"));
        let with_path = format!("https://as.example/{oauth}/t/1 https://as.example/{openid}/t/1 https://as.example/t/1/{openid}");
        assert_eq!(at("https://as.example/t/1"), with_path);
    }

    #[test]
    fn a_value_of_a_form_cannot_add_another() {
        assert_eq!(quoted("a b&c=d+é/~"), "a%20b%26c%3Dd%2B%C3%A9%2F~");
    }

    #[test]
    fn a_challenge_names_where_the_metadata_stands() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(text))]);
            hint(&headers).map(|place| place.to_string())
        };
        let place = Some("https://t.example/m".to_owned());
        assert_eq!(of("Bearer error=\"invalid_token\", resource_metadata=\"https://t.example/m\", scope=\"a\""), place);
        assert_eq!((of("Bearer resource_metadata=\"http://10.0.0.1/m\""), of("Bearer")), (None, None));
    }
}
