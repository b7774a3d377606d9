//! Items of the checklist about `server/discover`, versions and capabilities.
