"""The command line: click groups, tables and progress."""
