"""What the host's rules did to one packet, as a test asks for it."""

from __future__ import annotations

from collections.abc import Callable

from netd.api import netd_pb2 as pb
from netd.capture.summary import trace_lines


class Trace:
    """`verdict` is "accept", "drop" or "" where the packet met no rule; printing it shows every step."""

    def __init__(self, reply: pb.TraceReply, named: Callable[[str], str]) -> None:
        """`named` gives the test's names for the daemon's interfaces."""
        for step in reply.steps:
            step.iif, step.oif = named(step.iif), named(step.oif)
        self.verdict = reply.verdict
        self.route = [named(each) for each in reply.route]
        self.steps = list(reply.steps)
        self.decision = reply.decision if reply.HasField("decision") else None

    @property
    def chain(self) -> str:
        """The chain that decided, like "to_container"; empty if none did."""
        return self.decision.chain if self.decision else ""

    @property
    def rule(self) -> str:
        """The text of the rule that decided; empty if it was a policy, or nothing."""
        return self.decision.rule if self.decision else ""

    def chains(self) -> list[str]:
        """The chains that were passed, as "inet netd forward", each once, in order."""
        return list(dict.fromkeys(f"{each.family} {each.table} {each.chain}" for each in self.steps))

    def __str__(self) -> str:
        return "\n".join(trace_lines(self.steps, self.verdict, self.route))
