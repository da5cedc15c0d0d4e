from __future__ import annotations

from netd.topology.graph import dot, mermaid
from netd.topology.picture import Bar, Box, Picture, Wire

PICTURE = Picture(
    title='a "title"',
    bars=(Bar(key="front", about="10.1.0.0/24"), Bar(key="back", about="", internal=True)),
    boxes=(
        Box(
            name="web",
            about='say "hi" \\',
            ports=("*:8080 → 80/tcp",),
            wires=(Wire(network="front", ifname="eth0", addresses=("10.1.0.2",)), Wire(network="back")),
        ),
        Box(name="db", about="", wires=(Wire(network="back"),)),
    ),
)


def test_mermaid() -> None:
    assert mermaid(PICTURE) == (
        "flowchart TB\n"
        '    host(["host"])\n'
        '    n0[["front<br/>10.1.0.0/24"]]\n'
        '    n1[["back<br/>internal"]]\n'
        '    c0["web<br/>say #34;hi#34; #92;"]\n'
        '    n0 ---|"eth0<br/>10.1.0.2"| c0\n'
        "    n1 --- c0\n"
        '    host ==>|"*#58;8080 → 80/tcp"| c0\n'
        '    c1["db"]\n'
        "    n1 --- c1\n"
    )


def test_dot() -> None:
    lines = dot(PICTURE).splitlines()
    assert lines[0] == 'graph "a \\"title\\"" {'
    assert '    c0 [label="web\\nsay \\"hi\\" \\\\"];' in lines
    assert '    n0 -- c0 [label="eth0\\n10.1.0.2"];' in lines
    assert '    n1 [label="back\\ninternal", style=filled, fillcolor=mistyrose, shape=box];' in lines
    assert '    host -- c0 [label="*:8080 → 80/tcp", style=bold, dir=forward];' in lines
    assert lines[-1] == "}"


def test_without_published_ports_there_is_no_host() -> None:
    quiet = Picture(title="t", bars=(), boxes=(Box(name="a", about=""),))
    assert "host" not in mermaid(quiet)
    assert "host" not in dot(quiet)
