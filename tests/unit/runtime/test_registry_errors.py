"""What an engine says of a registry, as reasons. The messages are those of a Docker Engine 20.10 and of Docker Hub."""

from __future__ import annotations

import pytest

from swarmpy.runtime.registry_errors import RegistryRefusal, Trouble, trouble_of

IMAGE = "10.0.0.1:5000/shop/web:8"


@pytest.mark.parametrize(
    ("message", "status", "trouble"),
    [
        (f"manifest for {IMAGE} not found: manifest unknown: manifest unknown", 404, Trouble.MISSING),
        ("name unknown: repository name not known to registry", 0, Trouble.MISSING),
        ("whatever it says", 404, Trouble.MISSING),
        ('Head "http://10.0.0.1:5000/v2/shop/web/manifests/8": no basic auth credentials', 500, Trouble.REFUSED),
        ("unauthorized: authentication required", 500, Trouble.REFUSED),
        (
            "pull access denied for shop/web, repository does not exist or may require 'docker login'",
            404,
            Trouble.REFUSED,
        ),
        ('Get "http://10.0.0.1:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused', 500, Trouble.AWAY),
        ("dial tcp: lookup registry-1.docker.io on 10.0.0.53:53: no such host", 500, Trouble.AWAY),
        ("net/http: request canceled while waiting for connection (Client.Timeout exceeded)", 500, Trouble.AWAY),
        ("toomanyrequests: You have reached your pull rate limit", 0, Trouble.AWAY),
        ("received unexpected HTTP status: 503 Service Unavailable", 500, Trouble.AWAY),
        ("unexpected EOF", 0, Trouble.AWAY),
        ("no progress for 60 s", 0, Trouble.AWAY),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", 404, Trouble.PLATFORM),
        ("x509: certificate signed by unknown authority", 500, Trouble.OTHER),
        ("write /var/lib/docker/tmp/x: no space left on device", 0, Trouble.OTHER),
    ],
)
def test_what_it_is_about(message: str, status: int, trouble: Trouble) -> None:
    """The words decide, since the status says little."""
    assert trouble_of(message, status) is trouble


@pytest.mark.parametrize(
    ("message", "had", "reason"),
    [
        ("manifest unknown", False, "10.0.0.1:5000 does not have it"),
        ("unauthorized", True, "10.0.0.1:5000 refuses the credentials of the service: docker login anew, and"),
        ("unauthorized", False, "10.0.0.1:5000 asks for credentials, or has no such repository"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", False, "platform, linux/arm64/v8"),
        (
            'Get "http://h/v2/": dial tcp 10.0.0.1:5000: i/o\n timeout',
            False,
            "answer: dial tcp 10.0.0.1:5000: i/o timeout",
        ),
        ("x509: unknown authority", False, "10.0.0.1:5000: x509: unknown authority"),
    ],
)
def test_one_line_names_image_and_reason(message: str, had: bool, reason: str) -> None:
    """In Docker's words first."""
    line = RegistryRefusal(IMAGE, message, had=had).line
    assert line.startswith(f"No such image: {IMAGE} (")
    assert reason in line
    assert "\n" not in line


def test_a_long_message_is_cut() -> None:
    """A registry may send a page of HTML."""
    assert len(RegistryRefusal(IMAGE, "x" * 100_000).line) < 400
