//! Items of the checklist about error numbers and what they carry.
