"""Who is who: the root CA, certificates, join tokens, a node's identity, TLS contexts."""
