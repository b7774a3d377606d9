//! Items of the checklist about `Mcp-Param-*` headers.
