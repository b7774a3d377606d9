//! Items of the checklist about `subscriptions/listen` and the GET stream.
