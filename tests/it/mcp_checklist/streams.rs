//! Items of the checklist about streams of one request and their end.
