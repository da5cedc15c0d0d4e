"""Seeing packets from outside the namespace they are in; no scapy, for `netd capture` starts quickly.

points    asks the daemon for the sockets of a target
bpf       compiles a filter of tcpdump's syntax with libpcap
ring      one armed socket: the kernel writes frames into shared memory
recorder  several of them at once, drained to a marker
pcapng    the file that Wireshark reads
"""
