from typing import Any

class ifinfmsg(dict[str, Any]):
    data: bytearray
    def encode(self) -> None: ...
