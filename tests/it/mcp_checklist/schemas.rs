//! Items of the checklist about schemas of arguments and results.
