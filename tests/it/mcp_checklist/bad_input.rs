//! What a hostile or broken peer sends, and what still works after it.
