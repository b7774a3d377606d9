//! An agent's end of an open stream: its events as they come, with their ids.
