//! What is written otherwise than the server wrote it: URIs of its resources, blocks that the agent's revision does not have,
//! and completions beyond what the protocol allows. Everything else is copied.

use std::borrow::Cow;
use std::ops::Range;

use crate::catalog::Target;
use crate::invocation::Invocation;
use crate::mcp::canonical::write_string;
use crate::mcp::json::{Node, Value};
use crate::mcp::messages::Method;
use crate::mcp::revision::Revision;

/// Most values of a completion (all revisions, completion).
const MAX_VALUES: usize = 100;

/// Replacements of parts of a text, in the text's order. Nearly every result has none, and then nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<(Range<usize>, Vec<u8>)>);

impl Edits {
    /// Those that this result needs on its way to this caller.
    pub fn of(invocation: &Invocation<'_>, result: &Node<'_>) -> Self {
        let target = invocation.target;
        let revision = invocation.caller.revision.unwrap_or(Revision::NEWEST);
        let mut edits = Self::default();
        let items = |key| result.get(key).map(Node::items).unwrap_or_default();
        match invocation.method {
            Method::CallTool => items("content").iter().for_each(|block| edits.block(target, revision, block)),
            Method::GetPrompt => {
                items("messages").iter().filter_map(|message| message.get("content")).for_each(|content| match &content.value {
                    Value::Array(blocks) => blocks.iter().for_each(|block| edits.block(target, revision, block)),
                    _ => edits.block(target, revision, content),
                })
            }
            Method::ReadResource => items("contents").iter().for_each(|content| edits.uri(target, content)),
            Method::Complete => edits.completion(result),
        }
        edits
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes that part of the text with its edits.
    pub fn write(&self, text: &[u8], span: Range<usize>, out: &mut Vec<u8>) {
        let mut at = span.start;
        let first = self.0.partition_point(|(edited, _)| edited.start < span.start);
        for (edited, new) in self.0.iter().skip(first).take_while(|(edited, _)| edited.end <= span.end) {
            out.extend_from_slice(text.get(at..edited.start).unwrap_or_default());
            out.extend_from_slice(new);
            at = edited.end;
        }
        out.extend_from_slice(text.get(at..span.end).unwrap_or_default());
    }

    fn block(&mut self, target: &Target, revision: Revision, block: &Node<'_>) {
        let string = |key| block.get(key).and_then(Node::as_str);
        match string("type") {
            Some("resource") => block.get("resource").into_iter().for_each(|resource| self.uri(target, resource)),
            Some("resource_link") if revision < Revision::V2025_06_18 => {
                let uri = string("uri").map(|uri| target.public_uri(uri)).unwrap_or_default();
                let mime = string("mimeType").map(|mime| format!(" ({mime})")).unwrap_or_default();
                self.text(block, &format!("resource `{}`: {uri}{mime}", string("name").unwrap_or_default()));
            }
            // A link of the web is the client's own to follow.
            Some("resource_link") if !string("uri").is_some_and(is_web) => self.uri(target, block),
            Some("audio") if revision < Revision::V2025_03_26 => {
                let mime = string("mimeType").unwrap_or("of an unknown type");
                self.text(block, &format!("audio {mime}, left out: this client's revision of MCP has no audio"));
            }
            _ => {}
        }
    }

    /// Makes the member `uri` one that leads back to the server.
    fn uri(&mut self, target: &Target, holder: &Node<'_>) {
        let Some(uri) = holder.get("uri") else { return };
        if let Some(Cow::Owned(public)) = uri.as_str().map(|own| target.public_uri(own)) {
            let mut new = Vec::with_capacity(public.len() + 2);
            write_string(&public, &mut new);
            self.0.push((uri.span(), new));
        }
    }

    fn text(&mut self, block: &Node<'_>, words: &str) {
        let mut new = b"{\"type\":\"text\",\"text\":".to_vec();
        write_string(words, &mut new);
        new.push(b'}');
        self.0.push((block.span(), new));
    }

    fn completion(&mut self, result: &Node<'_>) {
        let Some(completion) = result.get("completion") else { return };
        let values = completion.get("values").map(Node::items).unwrap_or_default();
        let (Some(last), Some(end)) = (values.get(MAX_VALUES - 1), values.last()) else { return };
        if values.len() == MAX_VALUES {
            return;
        }
        self.0.push((last.span().end..end.span().end, Vec::new()));
        match completion.get("hasMore") {
            Some(more) => self.0.push((more.span(), b"true".to_vec())),
            None => self.0.push((completion.span().start + 1..completion.span().start + 1, b"\"hasMore\":true,".to_vec())),
        }
        self.0.sort_by_key(|(span, _)| span.start);
    }
}

fn is_web(uri: &str) -> bool {
    let scheme = uri.split(':').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}
