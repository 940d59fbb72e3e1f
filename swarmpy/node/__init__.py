"""The composition root: the only room that knows everybody. One daemon per node, in at most one cluster at a time."""
