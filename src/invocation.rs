//! One call inside the gateway: who, which target, with which valid arguments. Never changed once made.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::catalog::Target;
use crate::error::{Code, Detail, Error};
use crate::identity::Principal;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::Node;
use crate::mcp::log_level::LogLevel;
use crate::mcp::messages::Method;
use crate::mcp::revision::Revision;
use crate::schema::Schema;

/// Arguments that the tool's reviewed schema accepts: the document that was validated, and the bytes that are forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'d> {
    text: &'d [u8],
    node: Option<&'d Node<'d>>,
}

impl<'d> Arguments<'d> {
    /// Validates; the only way to make them. Absent arguments are the empty object, in the check and upstream.
    ///
    /// # Errors
    /// `invalid_arguments` with the broken rules.
    pub fn validate(schema: &Schema, arguments: Option<&'d Node<'d>>, message: &'d [u8]) -> Result<Self, Error> {
        let (checked, text) = match arguments {
            Some(arguments) => (schema.check(arguments), message.get(arguments.span()).unwrap_or_default()),
            None => (schema.check(&Node::empty_object()), b"{}".as_slice()),
        };
        checked.map(|()| Self { text, node: arguments }).map_err(invalid)
    }

    /// The validated document; `None` where there are no arguments.
    pub fn node(&self) -> Option<&'d Node<'d>> {
        self.node
    }

    /// The bytes of the validated span.
    pub fn text(&self) -> &'d [u8] {
        self.text
    }
}

fn invalid(details: Vec<Detail>) -> Error {
    Error::new(Code::InvalidArguments, "the arguments do not match the tool's schema").details(details)
}

/// The call as every later stage sees it.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'d> {
    /// Its id: in the record, in every error, and sent along upstream.
    pub id: Uuid,
    /// Who calls, and how.
    pub caller: &'d Caller,
    /// What is asked of the target.
    pub method: Method,
    /// What is called.
    pub target: &'d Target,
    /// What it is called with.
    pub arguments: Arguments<'d>,
    /// The JSON text of the `context` of `completion/complete`.
    pub context: Option<&'d [u8]>,
    /// The key by which its caller tells it from others: with the same key it is the same call.
    pub key: Option<&'d str>,
}

/// Who a message is from, and how it came: for the path and for the record.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who is calling.
    pub principal: Principal,
    /// `http`, `stdio` or `admin`.
    pub transport: &'static str,
    /// The revision of the agent's side; `None` before it is known.
    pub revision: Option<Revision>,
    /// What the client program calls itself: a claim.
    pub client: Option<String>,
    /// What the agent has declared that it can be asked for.
    pub capabilities: Capabilities,
    /// The least severe log message that the agent wants.
    pub log_level: Option<LogLevel>,
    /// How long the client waits, as a header of its HTTP request says.
    pub timeout: Option<Duration>,
    /// The `traceparent` of its HTTP request; one in `_meta` stands above it, since a request can carry several messages.
    pub trace: Option<Box<str>>,
    /// The socket's other end.
    pub peer: Option<Arc<str>>,
    /// The session of a handshake revision, shortened.
    pub session: Option<Arc<str>>,
}
