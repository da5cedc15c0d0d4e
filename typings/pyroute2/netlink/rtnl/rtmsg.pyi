from typing import Any

class rtmsg(dict[str, Any]):
    data: bytearray
    def encode(self) -> None: ...
