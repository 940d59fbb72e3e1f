"""All addresses of a machine, in the two families. Here and nowhere else, so that each use of them is found."""

from __future__ import annotations

# Published ports and host ports are for everybody; the cluster port is by default, and has mutual TLS.
ANY_IPV4 = "0.0.0.0"  # noqa: S104  # nosec B104
ANY_IPV6 = "::"
