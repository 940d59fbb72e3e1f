"""What a secret or a config may be. Messages are Docker's."""

from __future__ import annotations

import re

from swarmpy.errors import InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.grammar import bare, shown
from swarmpy.model.specs import ConfigSpec, SecretSpec

MAX_SECRET_BYTES = 500 * 1024
"""The data of a secret has fewer (swarmkit's ``MaxSecretSize``)."""
MAX_CONFIG_BYTES = 1000 * 1024
"""The data of a config has so many at most."""
MAX_CREDENTIALS_BYTES = 64 * 1024
"""Of a registry's credentials: a token of an identity provider has a few thousand."""
MAX_NAME = 64
MAX_LABELS_BYTES = 64 * 1024
"""Names and values: with the data they have to fit into one entry of the log."""
GOLANG = "golang"

_NAME = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?")


def check_data_name(name: str) -> None:
    """Raises InvalidArgument for what is no name of a secret or config (swarmkit's rule)."""
    if not name:
        raise InvalidArgument("name must be provided")
    # Its length first: the form of a long text that is almost a name takes long to find out.
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid name {shown(name)}, only {MAX_NAME} [a-zA-Z0-9-_.] characters allowed, "
            "and the start and end character must be [a-zA-Z0-9]"
        )


def check_secret(spec: SecretSpec) -> None:
    """Raises InvalidArgument."""
    _check_all_but_data(spec, "secret")
    check_secret_data(spec.data)


def check_config(spec: ConfigSpec) -> None:
    """Raises InvalidArgument."""
    _check_all_but_data(spec, "config")
    check_config_data(spec.data)


def check_secret_data(data: bytes) -> None:
    """Raises InvalidArgument for none, or too much."""
    if not 0 < len(data) < MAX_SECRET_BYTES:
        raise InvalidArgument(f"secret data must be larger than 0 and less than {MAX_SECRET_BYTES} bytes")


def check_config_data(data: bytes) -> None:
    """Raises InvalidArgument for none, or too much."""
    if not 0 < len(data) <= MAX_CONFIG_BYTES:
        raise InvalidArgument(f"config data must be larger than 0 and at most {MAX_CONFIG_BYTES} bytes")


def check_data_labels(labels: dict[str, str], word: str) -> None:
    """Raises InvalidArgument for labels of a secret or config (``word``) that are none, or too many."""
    try:
        for name, value in labels.items():
            grammar.check_label(name)
            grammar.check_text(value)
    except ValueError as error:
        raise InvalidArgument(f"{word} labels: {error}") from None
    size = sum(len(text.encode("utf-8", "surrogatepass")) for pair in labels.items() for text in pair)
    if size > MAX_LABELS_BYTES:
        raise InvalidArgument(f"{word} labels: they have {size} bytes, at most {MAX_LABELS_BYTES} are possible")


def _check_all_but_data(spec: SecretSpec | ConfigSpec, word: str) -> None:
    check_data_name(spec.name)
    check_data_labels(spec.labels, word)
    if spec.templating not in ("", GOLANG):
        raise InvalidArgument(
            f"{word} {spec.name}: unknown template driver {bare(spec.templating)}: use {GOLANG}, or none"
        )
