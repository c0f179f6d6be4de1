"""Where a program with a page listens, and who may come in: options that all of them have."""

from dataclasses import dataclass
from typing import Annotated

from unity.command import whole


@dataclass(frozen=True, kw_only=True)
class Listening:
    # address to listen at; any but this machine's own needs the token
    host: str = "127.0.0.1"
    # 0 takes a free one
    port: Annotated[int, whole(0, 65535)] = 8000
    # who opens the page must know it; by default made up where --host is not this machine's own
    token: str | None = None
