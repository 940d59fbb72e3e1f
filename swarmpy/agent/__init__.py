"""A worker's half of a node: a session with a manager, and its tasks."""
