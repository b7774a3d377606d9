//! What agents with an open stream are told of: which lists of which server have changed.

use std::sync::Arc;

use crate::catalog::Listing;
use crate::mcp::messages::Feed;

/// Changes that a slow listener may fall behind by; one that falls further behind is told that everything changed.
pub(super) const MAX_BEHIND: usize = 256;

/// Something that an agent may have asked to be told of. Whether it may know is decided for each listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list is another than before.
    List(Feed),
    /// A resource that somebody watches is another than before.
    Updated {
        /// The upstream's id.
        upstream: Arc<str>,
        /// The server's own URI.
        uri: Arc<str>,
    },
}

/// The lists that differ between two listings of a server; before the first, all are empty.
pub(super) fn between(before: Option<&Listing>, now: &Listing) -> impl Iterator<Item = Feed> {
    let nothing = Listing::default();
    let before = before.unwrap_or(&nothing);
    let feeds = [
        (Feed::Tools, before.tools != now.tools),
        (Feed::Prompts, before.prompts != now.prompts),
        (Feed::Resources, before.resources != now.resources || before.templates != now.templates),
    ];
    feeds.into_iter().filter_map(|(feed, differs)| differs.then_some(feed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Item;

    #[test]
    fn a_list_that_is_the_same_has_not_changed() {
        let templates = vec![Item { own: "x:{y}".into(), json: r#"{"uriTemplate":"x:{y}"}"#.into() }];
        let now = Listing { templates, ..Listing::default() };
        assert_eq!(between(None, &now).collect::<Vec<_>>(), [Feed::Resources]);
        assert_eq!(between(Some(&now), &now).count(), 0);
    }
}
