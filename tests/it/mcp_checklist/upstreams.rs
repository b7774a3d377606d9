//! Items of the checklist about what is sent to tool servers and taken from them.
