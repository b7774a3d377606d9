//! A message: what it is taken for has all the parts of that, and the short way to a result is the long one.

use doorward::mcp::json::{Limits, Node, parse};
use doorward::mcp::jsonrpc::{Id, MAX_ID_BYTES, Message, message, plain_result};

/// Bounds of a result; the message around it has a level and three values more.
const INNER: Limits = Limits { depth: 64, nodes: 5_000 };
const WHOLE: Limits = Limits { depth: 65, nodes: 5_003 };

/// Checks a message.
pub fn check(data: &[u8]) {
    let document = parse(data, WHOLE);
    if let Ok(document) = &document {
        is_whole(document);
    }
    let Some((id, span)) = plain_result(data) else { return };
    let result = data.get(span.clone()).expect("the span is of the text");
    match &document {
        Ok(document) => match message(document).expect("what is a result on the short way is one") {
            Message::Result { id: theirs, result } => {
                assert_eq!((theirs.as_json(), result.span()), (&*id.to_string(), span));
            }
            other => panic!("no result: {other:?}"),
        },
        // What is unsound of it must be unsound in what is parsed afterwards.
        Err(error) => assert!(parse(result, INNER).is_err(), "a sound result in a message that has `{error}`"),
    }
}

fn is_whole(document: &Node<'_>) {
    let has = |name: &str| document.get(name).is_some();
    match message(document) {
        Ok(Message::Request { id, method, params }) => {
            assert!(has("id") && !has("result") && !has("error"));
            assert_eq!(document.get("method").and_then(Node::as_str), Some(method));
            assert!(params.is_none_or(Node::is_object));
            is_sound(&id, document);
        }
        Ok(Message::Notification { method, params }) => {
            assert!(!has("id") && !has("result") && !has("error"));
            assert_eq!(document.get("method").and_then(Node::as_str), Some(method));
            assert!(params.is_none_or(Node::is_object));
        }
        Ok(Message::Result { id, .. }) => {
            assert!(!has("method") && !has("error"));
            is_sound(&id, document);
        }
        Ok(Message::Failure { id, error }) => {
            assert!(!has("method") && !has("result") && error.is_object());
            id.iter().for_each(|id| is_sound(id, document));
        }
        Err(_) => return,
    }
    assert_eq!(document.get("jsonrpc").and_then(Node::as_str), Some("2.0"));
}

/// An id is text of JSON that reads as itself, and not long.
fn is_sound(id: &Id, document: &Node<'_>) {
    // Each byte of a string may take six in JSON.
    assert!(id.as_json().len() <= 6 * MAX_ID_BYTES + 2 || document.get("id").and_then(Node::as_str).is_none(), "{id}");
    let read = parse(id.as_json().as_bytes(), INNER).expect("an id is JSON");
    assert_eq!(Id::of(&read).as_ref(), Some(id));
}
