//! Items of the checklist about sessions of the handshake revisions.
