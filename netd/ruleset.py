"""The constant nft rule set: what may pass, decided once; who is who, kept in sets.

Nothing in this text ever changes while netd runs. Networks, endpoints and published ports are
elements of the sets and maps below (`netd.firewall` says which), so that the ten-thousandth
published port costs what the first cost, and a packet meets the same few hash lookups however
many there are. Every set has exact keys: libnftables reads all interval sets of a table back for each
element added to any set of it, which with 4,000 elements was measured as 25 ms instead of 0.06.

Three tables, all named `netd`. `bridge` stands at the ports and checks that a container speaks only for
itself; `inet` stands at the host's own network stack and holds publishing, isolation and masquerading.
Where a container's link to the host is no port of a bridge (driver ptp), who speaks is judged in `inet`
before anything else, and what it says by ARP in `arp`. None needs br_netfilter, and none minds it: with
bridge-nf-call-iptables=1 a frame between two containers of one network also walks through `inet`, with the
bridge as its input *and* output interface, which is the case that `intra` and `apart` answer.

What the `inet` table promises, in both families:

- Towards a netd bridge passes only: replies, the network's own traffic (unless --no-icc), what was
  published, and in routed mode the published container ports and ICMP. The rest is dropped, no
  matter what policy the host's other tables have (moby #48724).
- Only what is addressed to the host itself is translated, or transit traffic to somebody else's
  port 8080 would be hijacked (CVE-2025-67499). Loopback is never translated: the kernel cannot for
  ::1, and for 127.0.0.1 it would need route_localnet, which exposes every loopback service
  (CVE-2020-8558). The daemon's relay serves both.
- Containers that --no-icc keeps apart reach each other's published ports as everybody does, but by
  the daemon's relay: with br_netfilter on, the kernel translates a frame while it is on the bridge and
  sends it on to the other port, which is isolated.
- Clients keep their source address. The exceptions are the hairpin, where a container reaches its
  own network through the host's address, and the detour, where it so reaches a container that is
  on its network too but publishes by another: the answer would otherwise take the short way and not
  be recognised.
- A container may speak to the host, but to no other network's gateway address; one of an internal
  network only to its own gateway, and there only DNS and ICMP.
- VXLAN enters from known peers only, and leaves only from the kernel. A container's own datagrams to the
  VXLAN port would get the host's address, which the peers trust, by masquerading (CVE-2026-92542), so
  they are dropped before; and so are those of the host's programs, which are told from the kernel's by
  having an owner. The kernel's own are not tracked: they are many, and never translated.
- The VXLAN of encrypted networks has a port of its own (`sealed`). It enters and leaves by the WireGuard
  device and by nothing else, whatever the routes say, and that device carries nothing else.

- Where plain routes lead to other nodes (--opt encap), what a network's endpoints send each other is let
  through as it is, and never translated. From the wire comes for an endpoint of another node only what
  has that node's MAC: it is checked before conntrack is asked, for a forged packet may fit a connection.

A verdict of `accept` ends this table's chain and no other's: a foreign table with a drop policy
still drops. That is what `netd doctor` looks for.

Loading `TEXT` is one transaction that may be repeated. It first declares everything, then empties
all chains (never a set), then fills the chains again. Packets see the old rules or the new ones,
and every element stays, so an upgrade interrupts no connection. The one set that is emptied is
`version`, whose single element is the digest of the text: a restart reads it and knows whether
there is anything to load. Two things cannot be changed in place, hook or priority of a base chain
and the type of a set; a later text that needs it must use a new name.
"""

from __future__ import annotations

from hashlib import blake2s

from netd.names import TUNNELS

LATCH = 0x1000_0000
"""The bit of a packet's mark that says: netd's rules let it through to a bridge (`netd.kernel.latch`)."""

SETS = """
table inet netd {
    set version { type ifname; }
    set mending { type nf_proto; timeout 1s; }     # both, while what conntrack knows is not to be trusted

    # Networks, by bridge.
    set bridges { type ifname; }
    set internal { type ifname; }                  # no way in or out
    set nat { type ifname; }                       # go out behind the host's address
    set routed { type ifname; }                    # go out with their own address
    set intra { type ifname . ifname; }            # bridge . itself: its containers may talk to each other
    set apart { type ifname . ifname; }            # bridge . itself: they may not, not even through the host
    set gateway4 { type ifname . ipv4_addr; }      # a bridge and its own gateway address
    set gateway6 { type ifname . ipv6_addr; }
    set gateways4 { type ipv4_addr; }              # the gateway addresses of all networks
    set gateways6 { type ipv6_addr; }

    # Networks without a bridge. Each of their links is among the bridges, too, as one with one member.
    set together { type devgroup . devgroup; }     # link group . itself: its links may talk to each other
    set ptp { type ifname; }                       # besides: all else of ours that no guard of ports sees
    set bind4 { type ifname . ether_addr . ipv4_addr; }
    set bind6 { type ifname . ether_addr . ipv6_addr; }
    set group_detour4 { type ipv4_addr . devgroup; }  # endpoint . another such network it is on
    set group_detour6 { type ipv6_addr . devgroup; }

    # Endpoints and what they publish.
    set hairpin4 { type ifname . ipv4_addr; }      # bridge . endpoint
    set hairpin6 { type ifname . ipv6_addr; }
    set detour4 { type ipv4_addr . ifname; }       # endpoint . another bridge that its container is on
    set detour6 { type ipv6_addr . ifname; }
    set connlimit4 { type ipv4_addr; ct count over 1; }       # endpoint, with a count of its own
    set connlimit6 { type ipv6_addr; ct count over 1; }
    map pub4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
    map pub6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
    map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
    map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
    set relayed { type ifname . inet_proto . inet_service; }   # bridge . published port
    set open4 { type ipv4_addr . inet_proto . inet_service; }
    set open6 { type ipv6_addr . inet_proto . inet_service; }

    # The overlay networks: where VXLAN is spoken, who may, and whose way out is narrower than it looks.
    set vxlan { type inet_service; }
    set sealed { type inet_service; }              # of those ports: only within WireGuard
    set wireguard { type inet_service; }           # where that is spoken
    set peers4 { type ipv4_addr; }
    set peers6 { type ipv6_addr; }
    set clamped { type ifname; }                   # bridge
    set far4 { type ifname . ipv4_addr; }          # bridge . endpoint on another node, by a plain route
    set far6 { type ifname . ipv6_addr; }
    set behind4 { type ifname . ether_addr . ipv4_addr; }      # the way in . that node . such an endpoint
    set behind6 { type ifname . ether_addr . ipv6_addr; }

    # Families whose forwarding netd itself turned on.
    set closed { type nf_proto; }
}

table bridge netd {
    set version { type ifname; }
    set ports { type ifname; }                                    # every endpoint's host side
    set macs { type ifname . ether_addr; }
    set routers { type ifname; }                                  # of containers that route for others
    set bind4 { type ifname . ether_addr . ipv4_addr; }
    set bind6 { type ifname . ether_addr . ipv6_addr; }
    # The same as bind6, as the bare 128 bits of a neighbour discovery target: nft has no name for
    # that field before 1.0.9, and a raw field matches only sets of its own type.
    set target6 { typeof iifname . ether saddr . @th,64,128; }
}

table arp netd {
    set version { type ifname; }
    set ptp { type ifname; }
    set bind4 { type ifname . ether_addr . ipv4_addr; }
}
"""

INET = """
table inet netd {
    chain raw {
        type filter hook prerouting priority raw; policy accept;
        # Every packet of the host comes by here: one look-up for all links of netd's that are no ports.
        iifname @ptp jump from_ptp
        udp dport @vxlan jump from_peer
        # Loopback addresses never come from a wire (moby #41872), whatever route_localnet says. For ::1
        # the kernel sees to that before any rule does (ip6_rcv_core in net/ipv6/ip6_input.c).
        ip daddr 127.0.0.0/8 iifname != "lo" drop
        ip saddr 127.0.0.0/8 iifname != "lo" drop
    }

    # A container with a link of its own speaks only for itself, fragments included: they have been put
    # together by now where anybody is to look at them. No source is unspecified: duplicate address
    # detection asks nobody here. The host's ends of links between two containers are bound to nothing:
    # nothing of theirs is for the host.
    chain from_ptp {
        # The names of the device and of its prefix are those of `netd.names`.
        iifname "wg-netd" goto from_tunnel
        iifname . ether saddr . ip saddr @bind4 return
        iifname . ether saddr . ip6 saddr @bind6 return
        drop
    }

    # What WireGuard decrypted: the frames of encrypted networks, for this host. A source port for each
    # conversation would be an entry for each in connection tracking.
    chain from_tunnel {
        udp dport @sealed fib daddr type local notrack accept
        drop
    }

    chain from_peer {
        ip saddr @peers4 notrack accept
        ip6 saddr @peers6 notrack accept
    }

    chain raw_output {
        type filter hook output priority raw; policy accept;
        udp dport @vxlan jump to_peer
    }

    chain to_peer {
        # Only a program's datagram has an owner (of any number but the one that means nobody), what a tunnel
        # device sends has none in this namespace.
        meta skuid != 4294967295 drop
        notrack
    }

    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump publish
    }

    chain output_nat {
        type nat hook output priority -100; policy accept;
        fib daddr type local jump publish
    }

    chain publish {
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        # A link-local client cannot be answered from behind a bridge: its address is not routable.
        ip6 daddr fe80::/10 return
        # A published port 53 must not take the containers' own DNS away.
        ip daddr @gateways4 meta l4proto { tcp, udp } th dport 53 return
        ip6 daddr @gateways6 meta l4proto { tcp, udp } th dport 53 return
        iifname . meta l4proto . th dport @relayed return
        dnat ip to ip daddr . meta l4proto . th dport map @pub4
        dnat ip to meta l4proto . th dport map @any4
        dnat ip6 to ip6 daddr . meta l4proto . th dport map @pub6
        dnat ip6 to meta l4proto . th dport map @any6
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        iifname . ip daddr @far4 accept
        iifname . ip6 daddr @far6 accept
        ct status dnat oifname . ip saddr @hairpin4 masquerade
        ct status dnat oifname . ip6 saddr @hairpin6 masquerade
        ct status dnat ip daddr . iifname @detour4 masquerade
        ct status dnat ip6 daddr . iifname @detour6 masquerade
        ct status dnat ip daddr . iifgroup @group_detour4 masquerade
        ct status dnat ip6 daddr . iifgroup @group_detour6 masquerade
        # The input interface is known here since Linux 5.7. Only what is routed has one: neither the
        # host's own packets nor frames that br_netfilter shows while they stay on a bridge.
        # fully-random: two containers that pick one source port race for it (kernel, insert_failed).
        iifname @nat oifname != @bridges masquerade fully-random
    }

    chain input {
        type filter hook input priority filter; policy accept;
        udp dport @vxlan goto vxlan
        udp dport @wireguard goto vxlan
        iifname "lo" accept
        ip6 daddr fdb4:8a1c:e95d::/64 drop
        ct state established,related goto known
        iifname @bridges jump from_container
        # The host answers for any of its addresses on any interface; these are for nobody else.
        ip daddr @gateways4 drop
        ip6 daddr @gateways6 drop
    }

    # While there were no rules, conntrack saw flows begin that none would have let in; until they are
    # forgotten (`netd.reconcile`), nobody is known.
    chain known {
        meta nfproto @mending jump doubtful
        accept
    }

    chain doubtful {
        iifname @bridges drop
        ip daddr @gateways4 drop
        ip6 daddr @gateways6 drop
    }

    chain vxlan {
        th dport @sealed goto sealed
        iifname @bridges drop
        ip saddr @peers4 accept
        ip6 saddr @peers6 accept
        drop
    }

    chain sealed {
        iifname "wg-netd" accept
        drop
    }

    chain from_container {
        # Neighbour discovery is never in conntrack, and nothing works without it. (Listener reports are
        # for the bridge, which sees them before any of this.)
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        jump limited
        iifname . ip daddr @gateway4 goto own_gateway
        iifname . ip6 daddr @gateway6 goto own_gateway
        iifname @internal drop
    }

    chain own_gateway {
        iifname != @internal accept
        meta l4proto { icmp, icmpv6 } accept
        meta l4proto { tcp, udp } th dport 53 accept
        drop
    }

    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state new jump limited
        # Frames that stay on a bridge come by in great numbers where br_netfilter is on.
        iifname . oifname @intra goto let_through
        # An overlay's frames are smaller than its neighbours' and nothing on the way says so reliably.
        tcp flags & (fin | syn | rst) == syn jump clamp
        oifname @bridges goto to_container
        iifname @bridges goto to_outside
        meta nfproto @closed goto transit
    }

    # An element counts the connections that matched it, and matches where they are more than its number.
    # What is dropped here is in no table of connections yet.
    chain limited {
        ip saddr @connlimit4 drop
        ip6 saddr @connlimit6 drop
    }

    chain clamp {
        iifname @clamped tcp option maxseg size set rt mtu
        oifname @clamped tcp option maxseg size set rt mtu
    }

    # A packet with a source route is seen here, and known to connection tracking, by the address that is
    # replaced behind this hook (ip_forward_options in net/ipv4/ip_options.c): whoever speaks with the host
    # would speak with its containers. For IPv6 there is none any more (RFC 5095).
    chain optioned {
        ip option lsrr exists drop
        ip option ssrr exists drop
    }

    chain to_container {
        ip hdrlength != 5 jump optioned
        oifname . ip saddr @far4 goto from_far
        oifname . ip6 saddr @far6 goto from_far
        ct state established,related goto let_through
        iifname . oifname @apart drop
        iifgroup . oifgroup @together goto let_through
        iifname @internal drop
        oifname @internal drop
        ct status dnat goto let_through
        ip daddr . meta l4proto . th dport @open4 goto let_through
        ip6 daddr . meta l4proto . th dport @open6 goto let_through
        iifname != @bridges oifname @routed meta l4proto { icmp, icmpv6 } goto let_through
        drop
    }

    chain from_far {
        iifname . ether saddr . ip saddr @behind4 goto let_through
        iifname . ether saddr . ip6 saddr @behind6 goto let_through
        drop
    }

    # Without this bit the bridge refuses the packet (`netd.kernel.latch`): should these rules vanish, or
    # the one that drops, nothing gets in.
    chain let_through {
        meta mark set meta mark or LATCH
        accept
    }

    chain to_outside {
        iifname . ip daddr @far4 accept
        iifname . ip6 daddr @far6 accept
        udp dport @vxlan drop
        oifname "wg-netd" drop
        iifname @internal drop
        # What conntrack cannot place is not translated, and would leave with a container's address.
        iifname @nat ct state invalid drop
    }

    # netd needs the host to forward. Where it had to turn that on itself, the host must not become
    # a router for its neighbours. Bridged frames come by here too (br_netfilter) and are let be.
    chain transit {
        meta iifkind "bridge" meta oifkind "bridge" return
        drop
    }

    chain output {
        type filter hook output priority filter; policy accept;
        # Never in clear: where the WireGuard device is gone, another route would take them.
        udp dport @sealed oifname != "wg-netd" drop
        oifname @bridges goto to_bridge
        # What was just translated still seems to leave by lo.
        oifname "lo" ct status dnat meta mark set meta mark or LATCH
    }

    chain to_bridge {
        # The kernel answers a hairpin with advice to go straight to a neighbour. For IPv4 its own
        # address translation drops that (nf_nat_icmp_reply_translation), for IPv6 nothing does.
        icmpv6 type nd-redirect drop
        # A question that came while there were no rules is not answered once they are back.
        ct direction reply meta nfproto @mending return
        meta mark set meta mark or LATCH
    }

    chain stays {
        # With br_netfilter a translated frame stays on its bridge, but where the neighbour must be asked
        # for again (br_nf_pre_routing_finish_bridge) it is sent by the bridge itself, unseen by `forward`.
        type filter hook prerouting priority -99; policy accept;
        ct status dnat iifname @bridges meta mark set meta mark or LATCH
    }
}
""".replace("LATCH", hex(LATCH))

BRIDGE = """
table bridge netd {
    chain prerouting {
        # Before br_netfilter (0) and before the bridge learns the source address.
        type filter hook prerouting priority -300; policy accept;
        # What tunnels bring was judged where it was sent.
        iifgroup TUNNELS accept
        # Of TCP nothing is asked but who it is from, and most frames are TCP: one look-up instead of four.
        # The type is the outermost one, so no tag passes; a binding has the port and the MAC in it.
        ether type ip ip protocol tcp iifname . ether saddr . ip saddr @bind4 accept
        ether type ip6 ip6 nexthdr tcp iifname . ether saddr . ip6 saddr @bind6 accept
        iifname @ports goto guard
    }

    # Whatever is not recognised is dropped: other ethertypes, VLAN tags, a port without bindings.
    chain guard {
        iifname . ether saddr != @macs drop
        ether type vmap { arp : goto guard_arp, ip : goto guard4, ip6 : goto guard6 }
        drop
    }

    chain guard_arp {
        arp htype != 1 drop
        arp ptype != ip drop
        arp hlen != 6 drop
        arp plen != 4 drop
        iifname . arp saddr ether != @macs drop
        # A probe (RFC 5227) claims nothing and changes nobody's cache.
        arp operation request arp saddr ip 0.0.0.0 accept
        iifname . ether saddr . arp saddr ip @bind4 accept
        drop
    }

    chain guard4 {
        # A later fragment is judged by its source alone. It has no transport header, yet in this family
        # the kernel lets rules read one: in IPv4 its payload, in IPv6 the fragment header.
        ip frag-off & 0x1fff != 0 iifname . ether saddr . ip saddr @bind4 accept
        udp dport 68 drop                       # DHCP answers, from whatever port
        igmp type membership-query drop         # a false querier prunes the neighbours' multicast
        iifname . ether saddr . ip saddr @bind4 accept
        # A router speaks for others, but with its own MAC, and never in ARP.
        iifname @routers accept
        drop
    }

    chain guard6 {
        frag frag-off != 0 meta l4proto != 0 iifname . ether saddr . ip6 saddr @bind6 accept
        # Router advertisements are smuggled past a guard in a first fragment that ends before its header
        # chain does (RFC 7113). Of such a packet the first word behind the chain cannot be read, and a
        # comparison of what cannot be read holds neither way. No transport begins with four zeros.
        @th,0,32 != 0 goto guard6_whole
        drop
    }

    chain guard6_whole {
        icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop
        # Who listens to what, nobody asks: the bridge does not snoop. Each address makes four of these, and
        # each would be delivered to every port.
        icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } drop
        icmpv6 type 151 drop                    # multicast router advertisement (RFC 4286)
        udp dport 546 drop                      # DHCPv6 answers
        icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @target6 drop
        iifname . ether saddr . ip6 saddr @bind6 accept
        ip6 saddr != { ::, fe80::/10 } iifname @routers accept
        # From the unspecified address comes duplicate address detection, for an address that is its own.
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @target6 accept
        drop
    }
}
""".replace("TUNNELS", hex(TUNNELS))

ARP = """
table arp netd {
    chain input {
        type filter hook input priority filter; policy accept;
        iifname @ptp goto guard
    }

    # What a port's guard does for a bridge. Each sender would get a place in the host's neighbour table.
    chain guard {
        arp operation request arp saddr ip 0.0.0.0 accept
        iifname . arp saddr ether . arp saddr ip @bind4 accept
        drop
    }
}
"""

VERSION = blake2s((SETS + INET + BRIDGE + ARP).encode()).hexdigest()[:12]
"""Digest of the rules, as found in the set `version` of each table of a host where they are loaded."""

TEXT = f"""{SETS}
flush table inet netd
flush table bridge netd
flush table arp netd
flush set inet netd version
flush set bridge netd version
flush set arp netd version
{INET}{BRIDGE}{ARP}
add element inet netd version {{ "{VERSION}" }}
add element bridge netd version {{ "{VERSION}" }}
add element arp netd version {{ "{VERSION}" }}
"""
"""All tables, for one libnftables command; repeatable, keeps all elements but the version's."""

MENDING = "add element inet netd mending { ipv4, ipv6 }"
"""Behind `TEXT`, where the rules were missing: whoever speaks with the host is a stranger, until `MENDED` or
for a second, should nobody live to say so."""
MENDED = "flush set inet netd mending"
