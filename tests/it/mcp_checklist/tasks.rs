//! Items of the checklist about tasks.
