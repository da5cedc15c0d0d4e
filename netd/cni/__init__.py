"""The CNI plugin inside the daemon: the verbs of the specification on top of the engine.

    spec       versions, error codes, the variables of a call and what may be in them
    config     the configuration, parsed and checked
    results    results in the shape of each version
    delegate   running an IPAM plugin of somebody else's
    wishes     what a configuration asks of the engine: a network, a place in it, ports
    judge      whether what was told is so, whether there is room
    verbs      ADD, DEL, CHECK, GC, STATUS

`netd.cni_server` brings the calls in; `docs/cni.md` is for those who install it. SPEC.md is the
specification of CNI 1.1.0 (github.com/containernetworking/cni).
"""
