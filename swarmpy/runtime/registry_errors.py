"""Why an image could not be had, from what the engine says of its registry. Pure.

The engine passes on the registry's own words, with a status that says little: 500 for a registry that is down as well
as for one that asks for a password. So the words are all there is to go by: those of the error codes of the OCI
distribution specification, and of Go's net package.
"""

from __future__ import annotations

import enum
import re

import attrs

from swarmpy.model.images import registry_of


class Trouble(enum.Enum):
    """What is wrong."""

    MISSING = "missing"
    """The registry does not have it."""
    REFUSED = "refused"
    """The registry wants credentials, or others."""
    PLATFORM = "platform"
    """It is there for other machines only."""
    AWAY = "away"
    """The registry does not answer, or not now: it may later."""
    OTHER = "other"
    """Anything else; the engine's words say what."""


_PATTERNS = (
    (Trouble.PLATFORM, r"no matching manifest for|cannot be used on this platform"),
    # Docker Hub says this of what does not exist and of what is private.
    (Trouble.REFUSED, r"pull access denied|no basic auth credentials|unauthorized|authentication required|denied"),
    (Trouble.REFUSED, r"incorrect username or password|status:? 40[13]\b"),
    (Trouble.MISSING, r"manifest unknown|name unknown|repository name not known|manifest invalid|not found$"),
    (Trouble.AWAY, r"dial tcp|connection refused|connection reset|no such host|no route to host|i/o timeout|EOF$"),
    (Trouble.AWAY, r"timeout exceeded|deadline exceeded|[Cc]lient\.Timeout|TLS handshake timeout|toomanyrequests"),
    (Trouble.AWAY, r"too many requests|service unavailable|status:? (?:429|5\d\d)\b|no progress for|no answer within"),
)
_WORDS = tuple((trouble, re.compile(pattern)) for trouble, pattern in _PATTERNS)
_REQUEST = re.compile(r'^(?:Get|Head) "?[^ ]+"?: ')
_PLATFORM = re.compile(r"no matching manifest for (\S+)")
_MAX_CHARS = 240


def trouble_of(message: str, status: int = 0) -> Trouble:
    """What the engine's ``message`` is about; ``status`` is HTTP's, 0 where there is none."""
    for trouble, words in _WORDS:
        if words.search(message):
            return trouble
    return Trouble.MISSING if status == 404 else Trouble.OTHER


@attrs.frozen
class RegistryRefusal:
    """An image that could not be had, and why: ``had`` says whether there were credentials to show."""

    image: str
    message: str
    status: int = 0
    had: bool = attrs.field(default=False, kw_only=True)

    @property
    def trouble(self) -> Trouble:
        """What it is about."""
        return trouble_of(self.message, self.status)

    @property
    def reason(self) -> str:
        """What is wrong and what to do, in half a line that does not name the image."""
        registry = registry_of(self.image)
        match self.trouble:
            case Trouble.MISSING:
                return f"{registry} does not have it"
            case Trouble.REFUSED if self.had:
                return f"{registry} refuses the credentials of the service: docker login anew, and --with-registry-auth"
            case Trouble.REFUSED:
                return f"{registry} asks for credentials, or has no such repository: docker login, --with-registry-auth"
            case Trouble.PLATFORM:
                found = _PLATFORM.search(self.message)
                return f"it is not there for this machine's platform{f', {found[1]}' if found else ''}"
            case Trouble.AWAY:
                return f"{registry} does not answer: {_short(self.message)}"
            case Trouble.OTHER:
                return f"{registry}: {_short(self.message)}"

    @property
    def line(self) -> str:
        """One line in Docker's words that names image and reason."""
        return f"No such image: {self.image} ({self.reason})"


def _short(message: str) -> str:
    text = _REQUEST.sub("", " ".join(message.split()))
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"
