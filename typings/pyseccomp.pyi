from typing import IO, overload

ALLOW: int
MASKED_EQ: int

def ERRNO(x: int) -> int: ...

class Arch:
    NATIVE: int

class Attr:
    ACT_BADARCH: int
    CTL_OPTIMIZE: int

class Arg:
    def __init__(self, arg: int, op: int, data_a: int, data_b: int = ...) -> None: ...

class SyscallFilter:
    def __init__(self, defaction: int) -> None: ...
    def set_attr(self, attr: int, value: int) -> None: ...
    def add_rule(self, action: int, syscall: int | str, *args: Arg) -> None: ...
    def export_bpf(self, file: IO[bytes]) -> None: ...

@overload
def resolve_syscall(arch: int, syscall: int) -> bytes: ...
@overload
def resolve_syscall(arch: int, syscall: str) -> int: ...
