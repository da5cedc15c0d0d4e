"""netd's DNS server: a process of its own, without privileges, that answers for containers.

The daemon starts it, hands it open sockets and tells it what exists (`control`); from then on it
answers by itself, whether the daemon lives or not. One thread, one epoll loop (`loop`), no waiting
anywhere. Only the standard library is imported, so that it starts in tens of milliseconds.

A question's way through it, each station a module:

    udp, tcp    receive it; who is asking follows from the socket and the source address
    zone        what this client can see: names of its networks, and nothing of other networks
    ready       asked before, spelled the same way: here is the answer
    wire        the question's bytes in, an answer's bytes out
    resolve     known name: answer; name that is netd's but does not exist: say so; else forward
    forward     ask the upstream servers, the same question once however many want it
    cache       what upstreams said, for as long as they said
"""
