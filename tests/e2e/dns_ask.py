"""Asks questions with dnspython from inside a container; run by the container's own Python.

Standard input: a JSON list of questions, {"name", "type", "server", "tcp", "edns", "class"}; only "name"
is needed. Standard output: a list of answers, {"rcode", "records", "authority", "flags", "tc"}, or
{"error"}. Without a server those of /etc/resolv.conf are asked, as a resolver would ask them.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/oracle")  # dnspython, which the container is shown there

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype


def servers() -> list[str]:
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver ")]


def ask(question: dict[str, Any]) -> dict[str, Any]:
    edns = question.get("edns")
    message = dns.message.make_query(
        question["name"],
        question.get("type", "A"),
        dns.rdataclass.from_text(question.get("class", "IN")),
        use_edns=-1 if edns is None else 0,
        payload=edns or 0,
    )
    send = dns.query.tcp if question.get("tcp") else dns.query.udp
    try:
        answer = send(message, question.get("server") or servers()[0], timeout=3)
    except (dns.exception.DNSException, OSError) as error:
        return {"error": type(error).__name__}
    return {
        "rcode": dns.rcode.to_text(answer.rcode()),
        "records": sorted(str(item) for rrset in answer.answer for item in rrset),
        "ttl": max([rrset.ttl for rrset in answer.answer], default=0),
        "authority": [dns.rdatatype.to_text(rrset.rdtype) for rrset in answer.authority],
        "question": str(answer.question[0].name) if answer.question else "",
        "flags": dns.flags.to_text(answer.flags).split(),
        "size": len(answer.to_wire()),
    }


print(json.dumps([ask(question) for question in json.load(sys.stdin)]))
