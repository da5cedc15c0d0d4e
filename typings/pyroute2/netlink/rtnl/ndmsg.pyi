from typing import Any

class ndmsg(dict[str, Any]):
    data: bytearray
    def encode(self) -> None: ...
