"""A network of namespaces: one for each node, all on one bridge in a further one. Needs root.

Links are cut where packets arrive, by the sender's address, so that a cut may be one-way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from network import Addresses, Blocked, Network

SUBNET = "10.213.77"
RULES = """
table inet soak {
  set cut { type ipv4_addr; }
  chain input { type filter hook input priority 0; ip saddr @cut drop; }
}
"""


class Namespaces(Network):
    """See the module. Interfaces and namespaces have this process's id in their names."""

    name = "namespaces"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._prefix = f"soak{os.getpid()}"
        self._made: list[str] = []
        self._cut: dict[str, set[str]] = {name: set() for name in names}

    async def open(self) -> None:
        """Make it. Raises OSError where that is not possible."""
        switch = self._make("sw")
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self._names, start=1):
            inside = self._make(name)
            port = f"p{number}"
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", inside, "link", "set", "lo", "up")
            _run("ip", "-n", inside, "addr", "add", f"{self._address(name)}/24", "dev", "eth0")
            _run("ip", "-n", inside, "link", "set", "eth0", "up")
            self._nft(name, RULES)

    async def close(self) -> None:
        """Remove it; what ran in it has ended."""
        for namespace in reversed(self._made):
            _run("ip", "netns", "delete", namespace)
        self._made.clear()

    def addresses(self, name: str) -> Addresses:
        """Every node has the usual ports, as a machine of its own would."""
        address = self._address(name)
        return Addresses(listen=f"{address}:2377", advertise=f"{address}:2377", status="127.0.0.1:2378")

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The same command, run in the node's namespace under the same process id."""
        return ["nsenter", f"--net=/run/netns/{self._prefix}-{name}", *command]

    def started(self, name: str, pid: int) -> None:
        """Of no interest: addresses say who is who."""

    def block(self, blocked: Blocked) -> None:
        """From now on exactly these directions are cut."""
        for name in self._names:
            wanted = {self._address(sender) for sender, receiver in blocked if receiver == name}
            if wanted != self._cut[name]:
                elements = f"add element inet soak cut {{ {', '.join(sorted(wanted))} }}\n" if wanted else ""
                self._nft(name, f"flush set inet soak cut\n{elements}")
                self._cut[name] = wanted

    def _make(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        _run("ip", "netns", "add", namespace)
        self._made.append(namespace)
        return namespace

    def _address(self, name: str) -> str:
        return f"{SUBNET}.{self._names.index(name) + 1}"

    def _nft(self, name: str, rules: str) -> None:
        _run(*self.command(name, ["nft", "-f", "-"]), text=rules)


def possible() -> str:
    """Why there cannot be one on this machine; "" when there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
