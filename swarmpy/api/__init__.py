"""The HTTP faces of a node: Docker-shaped API on a unix socket, status pages on loopback."""
