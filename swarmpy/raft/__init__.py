"""Consensus: a pure Raft core after etcd's contract, and the asyncio driver around it."""
