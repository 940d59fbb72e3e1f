"""The replicated state in memory: tables and indexes, transactions, watches, snapshots."""
