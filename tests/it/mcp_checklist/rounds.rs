//! Items of the checklist about questions of a server and requests that come again with answers.
