"""The data plane: the endpoint table and the routing mesh."""
