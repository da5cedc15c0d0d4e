"""The few calls that netd makes of dnslib, which has no types of its own."""

from typing import Any

class DNSLabel:
    def __init__(self, label: str) -> None: ...

class DNSHeader:
    id: int
    rcode: int
    aa: int
    ra: int
    tc: int

class RR:
    rname: DNSLabel
    rtype: int
    ttl: int
    rdata: Any

class DNSQuestion:
    qname: DNSLabel
    qtype: int

class DNSRecord:
    header: DNSHeader
    rr: list[RR]
    auth: list[RR]
    ar: list[RR]
    @property
    def q(self) -> DNSQuestion: ...
    @classmethod
    def question(cls, qname: str, qtype: str = ..., qclass: str = ...) -> DNSRecord: ...
    @classmethod
    def parse(cls, packet: bytes) -> DNSRecord: ...
    def pack(self) -> bytearray: ...

class DNSError(Exception): ...

QTYPE: Any
RCODE: Any
