"""Bytes between nodes and on disk: msgpack frames over mutual TLS, and the durable Raft log."""
