"""The versions of what is stored. ``docs/upgrading.md`` says what needs a new one, and who may write it when."""

from __future__ import annotations

SCHEMA_VERSION = 8
"""The newest that can be read."""
FIRST_VERSION = 1
REQUESTS_VERSION = 2
"""Of an entry or a snapshot that remembers requests: who ignores them would do a repeated one again."""
GATE_VERSION = 3
"""Of an entry or a snapshot with the version that the cluster writes: who ignores it would lose it."""
CERTIFICATES_VERSION = 4
"""Of an entry or a snapshot that knows nodes' certificates one by one, or more than one root CA."""
ROOTS_VERSION = 5
"""Of an entry or a snapshot that knows what each node shows and trusts, and how often the root CA was changed: who
ignores it would end a change of the root too early, or take a certificate that was never issued."""
CLIENTS_VERSION = 6
"""Of an entry or a snapshot that knows who may use the API over TCP: who ignores it would shut them out."""
SECRETS_VERSION = 7
"""Of an entry or a snapshot with secrets, configs, or specs that refer to some: who ignores them would lose them.
Also of one with a job, a progress deadline or an unlock key: who ignores that would restart, wait or not lock. Managers
seal what is on their disks from here on."""
SERVICES_VERSION = 8
"""Of an entry or a snapshot with what services and nodes have been given since (``docs/upgrading.md`` lists it)."""
BASE_VERSION = REQUESTS_VERSION
"""What every manager reads that does not tell what it reads: it may be written without asking."""
