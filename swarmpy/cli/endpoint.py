"""Where a daemon's API is: a unix socket of this machine, or a manager's address with a directory of certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs

from swarmpy.errors import InvalidArgument, PermissionDenied

API_PORT = 2376
CA_FILE, CERT_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"
"""As the docker command has them in its DOCKER_CERT_PATH."""


@attrs.frozen(kw_only=True)
class TcpEndpoint:
    """The API of a manager, over TLS."""

    host: str
    port: int
    cert_dir: Path

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """What to connect with. Raises InvalidArgument and PermissionDenied for files that are not usable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        ca, cert, key = (self.cert_dir / name for name in (CA_FILE, CERT_FILE, KEY_FILE))
        file = ca
        try:
            context.load_verify_locations(cafile=file)
            file = key
            with file.open("rb"):
                pass
            file = cert
            context.load_cert_chain(file, key)
        except FileNotFoundError:
            raise InvalidArgument(
                f'{file} is not there: name the directory that "swarmpy swarm client-cert --out" made with --cert-dir'
            ) from None
        except PermissionError:
            raise PermissionDenied(f"cannot read {file}: permission denied") from None
        except ssl.SSLError as error:
            raise InvalidArgument(
                f"{file} is not usable: {(error.reason or 'no PEM').replace('_', ' ').lower()}"
            ) from error
        return context


def parse_tcp(text: str, cert_dir: Path) -> TcpEndpoint:
    """The endpoint of ``HOST``, ``HOST:PORT`` or ``[V6]:PORT``, with ``tcp://`` before it or not. InvalidArgument."""
    address = text.removeprefix("tcp://")
    host, port_text = address, ""
    if address.startswith("["):
        host, _, port_text = address[1:].partition("]")
        port_text = port_text.removeprefix(":")
    elif address.count(":") == 1:
        host, _, port_text = address.partition(":")
    is_port = port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536
    if not host or "/" in address or (port_text and not is_port):
        raise InvalidArgument(f"{text!r} is not HOST:PORT")
    return TcpEndpoint(host=host, port=int(port_text) if port_text else API_PORT, cert_dir=cert_dir)
