//! An authorization server: another party, with keys of its own, that signs whatever a test wants signed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Upstream, soon};

/// What tokens for the gateway of a test name as their audience; nothing listens there.
pub const RESOURCE: &str = "https://gateway.example/mcp";

/// Seconds since 1970.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// The text of a part of a token.
pub fn encoded(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// A key that signs.
pub enum Signer {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    /// A new key on P-256, made by the library that makes certificates.
    pub fn p256() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der()).unwrap())
    }

    /// A new RSA key of 2048 bits.
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// The algorithm that it signs with.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    /// Its public half as an entry of a key set.
    pub fn public(&self, kid: &str) -> Value {
        match self {
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": x, "y": y })
            }
            Self::Rsa(key) => {
                let RsaPublicKeyComponents { n, e }: RsaPublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": encoded(n), "e": encoded(e) })
            }
        }
    }

    /// A token with this header and these claims, and a sound signature.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// The same of any text.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::P256(key) => key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", encoded(signature))
    }
}

struct Shared {
    signer: Mutex<(String, Arc<Signer>)>,
    /// What it answers, by path; the keys where nothing else is said.
    answers: Mutex<Vec<(String, StatusCode, Value)>>,
    down: Mutex<bool>,
    /// Answers wait for this.
    held: Mutex<CancellationToken>,
    asked: watch::Sender<Vec<Asked>>,
}

/// One request that it got.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub body: String,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Issuer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Issuer {
    /// Starts it on a free port, with one key on P-256 that is called `k1`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let shared = Shared {
            signer: Mutex::new(("k1".to_owned(), Arc::new(Signer::p256()))),
            answers: Mutex::default(),
            down: Mutex::default(),
            held: Mutex::new(ready()),
            asked: watch::Sender::new(Vec::new()),
        };
        let issuer = Self { shared: Arc::new(shared), address: listener.local_addr().unwrap() };
        let serving = issuer.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let issuer = serving.clone();
                let service = service_fn(move |request| issuer.clone().answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        issuer
    }

    /// Its name, and where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The entry of `identity.jwt` that trusts it; `more` are further members.
    pub fn entry(&self, more: &str) -> String {
        let url = self.url();
        format!("identity:\n  resource: {RESOURCE}\n  jwt: [{{ issuer: \"{url}\", jwks: {{ url: \"{url}/jwks\" }} {more} }}]\n")
    }

    /// The key that it signs with, and its name.
    pub fn signer(&self) -> (String, Arc<Signer>) {
        self.shared.signer.lock().unwrap().clone()
    }

    /// Its key set.
    pub fn keys(&self) -> Value {
        let (kid, signer) = self.signer();
        json!({ "keys": [signer.public(&kid)] })
    }

    /// Signs with another key from now on, and forgets the one of before.
    pub fn rotate(&self, kid: &str, signer: Signer) {
        *self.shared.signer.lock().unwrap() = (kid.to_owned(), Arc::new(signer));
    }

    /// Answers nothing but errors, or everything again.
    pub fn fail(&self, is_down: bool) {
        *self.shared.down.lock().unwrap() = is_down;
    }

    /// Answers nothing until what is returned is cancelled.
    pub fn hold(&self) -> CancellationToken {
        let held = CancellationToken::new();
        *self.shared.held.lock().unwrap() = held.clone();
        held
    }

    /// Answers requests for this path so from now on; a redirect leads to the body's `to`.
    pub fn answers(&self, path: &str, status: u16, body: Value) {
        let mut answers = self.shared.answers.lock().unwrap();
        answers.retain(|(known, _, _)| known != path);
        answers.push((path.to_owned(), StatusCode::from_u16(status).unwrap(), body));
    }

    /// Gives this token to whoever asks with a credential, and says where.
    pub fn grants(&self, token: &str, lasts: u64) {
        let url = self.url();
        let metadata = json!({ "issuer": url, "token_endpoint": format!("{url}/token"), "grant_types_supported": ["client_credentials"] });
        self.answers("/.well-known/oauth-authorization-server", 200, metadata);
        self.answers("/token", 200, json!({ "access_token": token, "token_type": "Bearer", "expires_in": lasts }));
    }

    /// The manifest's rest for a tool server whose tokens it makes; `more` are further members beside the issuer.
    pub fn opens(&self, upstream: &Upstream, more: &str) -> String {
        let oauth = format!("issuer: \"{}\", client_id: gateway, {more}", self.url());
        let tools = "tools: { echo: { tier: read }, save: { tier: reversible }, pay: { tier: irreversible } }";
        format!("transport: {{ http: {{ url: \"{}\", auth: {{ oauth: {{ {oauth} }} }} }} }}\n{tools}\n", upstream.url())
    }

    /// The claims of a token for the agent `demo`.
    pub fn claims(&self) -> Value {
        let (iat, exp) = (now(), now() + 600);
        json!({ "iss": self.url(), "aud": RESOURCE, "sub": "demo", "client_id": "demo", "iat": iat, "exp": exp, "jti": "1" })
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        let (kid, signer) = self.signer();
        json!({ "alg": signer.algorithm(), "typ": "at+jwt", "kid": kid })
    }

    /// A token for the agent `demo`, with these claims in place of the usual ones; `null` takes one out.
    pub fn token(&self, other: &Value) -> String {
        self.signer().1.sign(&self.header(), &with(self.claims(), other))
    }

    /// The requests that it got for a path.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        self.shared.asked.borrow().iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// Waits until it got so many requests for a path.
    pub async fn got(&self, path: &str, times: usize) {
        let mut asked = self.shared.asked.subscribe();
        let enough = |all: &Vec<Asked>| all.iter().filter(|asked| asked.path == path).count() >= times;
        drop(soon("a request at the authorization server", asked.wait_for(enough)).await.unwrap());
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let asked = Asked {
            path: head.uri.path().to_owned(),
            authorization: head.headers.get("authorization").map(text),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        let known = self.shared.answers.lock().unwrap().iter().find(|(path, ..)| *path == asked.path).cloned();
        let (status, body) = match (*self.shared.down.lock().unwrap(), known) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, json!({})),
            (false, Some((_, status, body))) => (status, body),
            (false, None) if asked.path == "/jwks" => (StatusCode::OK, self.keys()),
            (false, None) => (StatusCode::NOT_FOUND, json!({})),
        };
        self.shared.asked.send_modify(|all| all.push(asked));
        let held = self.shared.held.lock().unwrap().clone();
        held.cancelled().await;
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        if let Some(to) = body["to"].as_str().filter(|_| status.is_redirection()) {
            response.headers_mut().insert("location", to.parse().unwrap());
        }
        Ok(response)
    }
}

/// What nobody waits for.
fn ready() -> CancellationToken {
    let ready = CancellationToken::new();
    ready.cancel();
    ready
}

/// An object with other members; `null` takes one out.
pub fn with(mut object: Value, other: &Value) -> Value {
    let members = object.as_object_mut().unwrap();
    for (name, value) in other.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    object
}
