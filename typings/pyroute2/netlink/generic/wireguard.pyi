from typing import Any

class wgmsg(dict[str, Any]):
    data: bytearray
    def encode(self) -> None: ...
