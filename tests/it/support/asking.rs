//! A tool server that asks: for a form, a model's words, or folders, in every era.
