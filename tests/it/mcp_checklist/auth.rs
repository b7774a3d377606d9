//! Items of the checklist about authorization.
