"""The cluster's certificate authority, certificates, join tokens and TLS contexts."""
