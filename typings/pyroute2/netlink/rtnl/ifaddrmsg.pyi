from typing import Any

class ifaddrmsg(dict[str, Any]):
    data: bytearray
    def encode(self) -> None: ...
