//! Items of the checklist about lists: cursors, order, caching, names.
