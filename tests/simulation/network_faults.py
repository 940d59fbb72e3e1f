"""What goes wrong between hosts: cut, clogged and far links, broken connections, lost, doubled and late messages.

Swizzling is FoundationDB's: clog a random part of the hosts one after the other, and unclog them in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from net import Host

if TYPE_CHECKING:
    from faults import Nemesis

FAR_S = (0.02, 0.25)
MOST_LOST = 0.4
MOST_DOUBLED = 0.4
MOST_LATE = 0.4
MOST_UNANSWERED = 0.5
Links = list[tuple[str, str]]


class NetworkFaults:
    """Those that ``nemesis`` can choose from."""

    def __init__(self, nemesis: Nemesis) -> None:
        self._nemesis = nemesis
        self._net = nemesis.net
        self._random = nemesis.random
        self._film = nemesis.film

    def kinds(self) -> dict[str, Callable[[], None]]:
        """By name."""
        return {
            "isolate": self._isolate_one,
            "isolate leader": self._isolate_leader,
            "partition": self._partition_two,
            "split": self._split,
            "clog": self._clog,
            "swizzle": self._swizzle,
            "reset": self._reset,
            "loss": self._lose,
            "duplication": self._double,
            "reordering": self._reorder,
            "lost answers": self._lose_answers,
            "far link": self._far_link,
        }

    def _isolate_one(self) -> None:
        self._isolate(self._nemesis.one(), "isolate")

    def _isolate_leader(self) -> None:
        if (host := self._nemesis.leading()) is not None:
            self._isolate(host, "isolate leader")

    def _isolate(self, host: Host, kind: str) -> None:
        self._film.fault(kind, host.node_id, "is cut off from all others")
        self._net.isolate(host.node_id)
        self._heal_later(self._around(host))

    def _around(self, host: Host) -> Links:
        """All links from and to ``host``."""
        others = [other for other in self._net.hosts if other != host.node_id]
        return [(host.node_id, other) for other in others] + [(other, host.node_id) for other in others]

    def _heal_later(self, links: Links, seconds: float | None = None) -> None:
        self._nemesis.lasts(lambda: self._heal(links), seconds)

    def _heal(self, links: Links) -> None:
        self._film.tell("nemesis", f"heal {', '.join(f'{source}->{target}' for source, target in links)}")
        self._net.heal(links)

    def _partition_two(self) -> None:
        one, other = self._nemesis.one().node_id, self._nemesis.one().node_id
        if one != other:
            one_way = self._random.random() < 0.5
            kind = "one-way partition" if one_way else "partition"
            self._film.fault(kind, one, f"{'reaches' if one_way else 'and'} {other} no more")
            self._net.partition(one, other, one_way=one_way)
            self._heal_later([(one, other), (other, one)])

    def _split(self) -> None:
        part = sorted(host.node_id for host in self._nemesis.some())
        rest = [name for name in self._net.hosts if name not in part]
        self._film.fault("split", "nemesis", f"{', '.join(part)} are cut off from {', '.join(rest) or 'nobody'}")
        self._net.split(part)
        self._heal_later([ends for one in part for other in rest for ends in ((one, other), (other, one))])

    def _clog(self) -> None:
        one, other = self._nemesis.one().node_id, self._nemesis.one().node_id
        if one != other:
            self._film.fault("clog", one, f"what it sends to {other} is held up")
            self._net.clog(one, other)
            self._heal_later([(one, other)])

    def _swizzle(self) -> None:
        hosts = self._nemesis.some()
        self._film.fault("swizzle", "nemesis", f"of {', '.join(host.node_id for host in hosts)}")
        most = self._nemesis.repair_s[1]
        for host in hosts:
            begin = self._random.uniform(0, most / 2)
            self._net.later(begin, self._clog_all, host, begin + self._random.uniform(0, most))

    def _clog_all(self, host: Host, seconds: float) -> None:
        if self._nemesis.is_running:
            self._film.tell(host.node_id, "is clogged")
            links = self._around(host)
            for source, target in links:
                self._net.clog(source, target)
            self._heal_later(links, seconds)

    def _reset(self) -> None:
        one, other = self._nemesis.one().node_id, self._nemesis.one().node_id
        self._film.fault("reset", one, f"its connections with {other} break")
        self._net.reset(one, other)

    def _lose(self) -> None:
        share = self._net.options.notify_loss = self._random.uniform(0.01, MOST_LOST)
        self._film.fault("loss", "network", f"{share:.2f} of all notifications are lost")
        self._nemesis.lasts(lambda: setattr(self._net.options, "notify_loss", 0.0))

    def _double(self) -> None:
        share = self._net.options.notify_duplicate = self._random.uniform(0.01, MOST_DOUBLED)
        self._film.fault("duplication", "network", f"{share:.2f} of all notifications come twice")
        self._nemesis.lasts(lambda: setattr(self._net.options, "notify_duplicate", 0.0))

    def _reorder(self) -> None:
        share = self._net.options.notify_overtake = self._random.uniform(0.01, MOST_LATE)
        self._film.fault("reordering", "network", f"{share:.2f} of all notifications are late")
        self._nemesis.lasts(lambda: setattr(self._net.options, "notify_overtake", 0.0))

    def _lose_answers(self) -> None:
        share = self._net.options.answer_loss = self._random.uniform(0.05, MOST_UNANSWERED)
        self._film.fault("lost answers", "network", f"{share:.2f} of all connections break before the answer")
        self._nemesis.lasts(lambda: setattr(self._net.options, "answer_loss", 0.0))

    def _far_link(self) -> None:
        one, other = self._nemesis.one().node_id, self._nemesis.one().node_id
        far_s = self._random.uniform(*FAR_S)
        self._film.fault("far link", one, f"is {far_s:.3f} s away from {other}")
        for ends in ((one, other), (other, one)):
            link = self._net.link(*ends)
            link.far_s, link.jitter_s = far_s, self._random.uniform(0, far_s)
        self._nemesis.lasts(lambda: self._bring_near([(one, other), (other, one)]))

    def _bring_near(self, links: Links) -> None:
        for ends in links:
            link = self._net.link(*ends)
            link.far_s = link.jitter_s = 0.0
