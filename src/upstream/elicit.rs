//! What a server's question may contain before anybody sees it, and what it looks like then.
//!
//! Pure: a question's text in, the text for the agent out. Leaves to others: which kinds of question a server may ask
//! (`asking`), and the asking.
//! INVARIANT: a form that asks for a secret is never shown. Forms are no place for one (2025-11-25, elicitation, safety).

use uuid::Uuid;

use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node, Value};
use crate::mcp::revision::Revision;

/// Bounds of a question's parameters. An agent parses them once more.
const LIMITS: Limits = Limits { depth: 64, nodes: 100_000 };

/// Words in the name or title of a field that ask for a secret; `api key` and the like are told by [`SECRET_PAIRS`].
const SECRETS: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "otp",
    "pin",
    "cvv",
    "cvc",
    "ssn",
    "apikey",
    "privatekey",
    "mnemonic",
];
/// Words that do so side by side.
const SECRET_PAIRS: [(&str, &str); 5] = [("api", "key"), ("private", "key"), ("access", "key"), ("security", "code"), ("seed", "phrase")];

/// The `InputRequest` object (2026-07-28) of a question, for an agent of `revision`: it names who asks.
///
/// # Errors
/// Why nobody should see it, for the record.
pub fn input_request(upstream: &str, revision: Revision, method: &str, params: &[u8]) -> Result<Vec<u8>, &'static str> {
    let params = if params.is_empty() { b"{}".as_slice() } else { params };
    let node = json::parse(params, LIMITS).map_err(|_| "its parameters are not sound")?;
    if method == "elicitation/create" {
        match node.get("mode").map(Node::as_str) {
            None | Some(Some("form")) => form(&node, revision)?,
            Some(Some("url")) => link(&node)?,
            Some(_) => return Err("it asks in a way that this gateway does not know"),
        }
    }
    let mut out = b"{\"method\":".to_vec();
    write_string(method, &mut out);
    out.extend_from_slice(b",\"params\":{");
    let start = out.len();
    let member = |key: &str, out: &mut Vec<u8>| {
        if out.len() > start {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
    };
    for found in node.members() {
        match (method, &*found.key, found.node.as_str()) {
            // `_meta` is between the server and us; the id of a link means nothing but to agents of 2025-11-25.
            (_, "_meta", _) => {}
            ("elicitation/create", "elicitationId", _) if revision != Revision::V2025_11_25 => {}
            ("elicitation/create", "message", Some(message)) => {
                member(&found.key, &mut out);
                write_string(&format!("[{upstream} asks] {message}"), &mut out);
            }
            // The context of other servers is not this server's to see.
            ("sampling/createMessage", "includeContext", _) => {
                member(&found.key, &mut out);
                out.extend_from_slice(b"\"none\"");
            }
            _ => {
                member(&found.key, &mut out);
                out.extend_from_slice(found.node.text(params));
            }
        }
    }
    let is_link = method == "elicitation/create" && node.get("mode").is_some_and(|mode| mode.as_str() == Some("url"));
    if is_link && revision == Revision::V2025_11_25 && node.get("elicitationId").is_none() {
        member("elicitationId", &mut out);
        write_string(&Uuid::now_v7().to_string(), &mut out);
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

fn link(params: &Node<'_>) -> Result<(), &'static str> {
    let url = params.get("url").and_then(Node::as_str).unwrap_or_default();
    let uri: http::Uri = url.parse().map_err(|_| "its link is not a URL")?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https" | "http"), Some(authority)) if !authority.as_str().contains('@') => Ok(()),
        _ => Err("its link is not a plain http or https URL"),
    }
}

/// Forms are flat (2025-06-18 and later, elicitation); lists and titled choices came with 2025-11-25.
fn form(params: &Node<'_>, revision: Revision) -> Result<(), &'static str> {
    let Some(schema) = params.get("requestedSchema") else { return Err("it has no form") };
    let Some(fields) = schema.get("properties").filter(|fields| fields.is_object()) else { return Err("its form has no fields") };
    if schema.get("type").and_then(Node::as_str) != Some("object") {
        return Err("its form is not an object");
    }
    for field in fields.members() {
        let has = |key| field.node.get(key).is_some();
        let title = field.node.get("title").and_then(Node::as_str).unwrap_or_default();
        let format = field.node.get("format").and_then(Node::as_str);
        if asks_for_secret(&field.key) || asks_for_secret(title) || format == Some("password") {
            return Err("its form asks for a secret");
        }
        match field.node.get("type").map(|kind| &kind.value) {
            Some(Value::String(kind)) if matches!(&**kind, "string" | "number" | "integer" | "boolean") => {}
            Some(Value::String(kind)) if &**kind == "array" && revision >= Revision::V2025_11_25 => {}
            _ => return Err("its form has a field that the agent's revision does not know"),
        }
        let is_newer = has("oneOf") || has("anyOf");
        if has("properties") || (is_newer && revision < Revision::V2025_11_25) {
            return Err("its form has a field that the agent's revision does not know");
        }
    }
    Ok(())
}

fn asks_for_secret(name: &str) -> bool {
    let words = words(name);
    let singular =
        |word: &str| SECRETS.contains(&word) || word.strip_suffix('s').is_some_and(|word| word != "token" && SECRETS.contains(&word));
    words.iter().any(|word| singular(word))
        || words.windows(2).any(|pair| matches!(pair, [one, other] if SECRET_PAIRS.contains(&(one.as_str(), other.as_str()))))
}

/// The words of `snake_case`, `camelCase`, `kebab-case` and plain text, in lower case.
fn words(name: &str) -> Vec<String> {
    let (mut words, mut word, mut lower) = (Vec::new(), String::new(), false);
    for letter in name.chars() {
        if (!letter.is_alphanumeric() || (letter.is_uppercase() && lower)) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        lower = letter.is_lowercase();
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(revision: Revision, field: &str) -> Result<String, &'static str> {
        let params = format!(r#"{{"_meta":{{}},"message":"Who?","requestedSchema":{{"type":"object","properties":{{{field}}}}}}}"#);
        input_request("up", revision, "elicitation/create", params.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_question_says_who_asks() {
        let text = asked(Revision::NEWEST, r#""name":{"type":"string"}"#).unwrap();
        let form = r#"{"type":"object","properties":{"name":{"type":"string"}}}"#;
        let whole = format!(r#"{{"method":"elicitation/create","params":{{"message":"[up asks] Who?","requestedSchema":{form}}}}}"#);
        assert_eq!(text, whole);
    }

    #[test]
    fn a_field_for_a_secret_is_told_by_its_name_or_title() {
        for name in ["password", "userPassword", "api_key", "API-Key", "apiKey", "otp", "Your PIN", "privateKey", "secrets", "authToken"] {
            assert!(asked(Revision::NEWEST, &format!(r#""{name}":{{"type":"string"}}"#)).is_err(), "{name}");
            assert!(asked(Revision::NEWEST, &format!(r#""a":{{"type":"string","title":"{name}"}}"#)).is_err(), "{name}");
        }
        assert!(asked(Revision::NEWEST, r#""a":{"type":"string","format":"password"}"#).is_err());
        for name in ["name", "max_tokens", "pinned", "keyboard", "spinner", "secretary", "key", "opinion"] {
            assert!(asked(Revision::NEWEST, &format!(r#""{name}":{{"type":"string"}}"#)).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_form_is_flat_and_no_newer_than_the_agent() {
        let (list, titled) =
            (r#""a":{"type":"array","items":{"enum":["x"]}}"#, r#""a":{"type":"string","oneOf":[{"const":"x","title":"X"}]}"#);
        for newer in [list, titled] {
            assert!(asked(Revision::V2025_06_18, newer).is_err() && asked(Revision::V2025_11_25, newer).is_ok(), "{newer}");
        }
        assert!(asked(Revision::NEWEST, r#""a":{"type":"object","properties":{}}"#).is_err());
        assert!(input_request("up", Revision::NEWEST, "elicitation/create", br#"{"message":"x"}"#).is_err());
    }

    #[test]
    fn a_link_is_plain_and_has_an_id_only_where_the_agent_needs_one() {
        let link = |revision, url: &str| {
            let params = format!(r#"{{"mode":"url","message":"m","url":"{url}","elicitationId":"theirs"}}"#);
            input_request("up", revision, "elicitation/create", params.as_bytes()).map(|text| String::from_utf8(text).unwrap())
        };
        assert!(!link(Revision::NEWEST, "https://a.example/x").unwrap().contains("elicitationId"));
        assert!(link(Revision::V2025_11_25, "https://a.example/x").unwrap().contains(r#""elicitationId":"theirs""#));
        for url in ["javascript:alert(1)", "https://user@a.example/", "file:///etc/passwd", "a", ""] {
            assert!(link(Revision::NEWEST, url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_model_is_not_given_the_context_of_other_servers() {
        let text = input_request("up", Revision::NEWEST, "sampling/createMessage", br#"{"maxTokens":5,"includeContext":"allServers"}"#);
        assert_eq!(text.unwrap(), br#"{"method":"sampling/createMessage","params":{"maxTokens":5,"includeContext":"none"}}"#);
        assert_eq!(input_request("up", Revision::NEWEST, "roots/list", b"").unwrap(), br#"{"method":"roots/list","params":{}}"#);
    }
}
