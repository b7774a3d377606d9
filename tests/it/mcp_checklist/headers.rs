//! Items of the checklist about HTTP headers and statuses.
