"""A manager's half of a node: leadership, dispatcher, membership."""
