"""The door to whoever wants to hear of alerts: one POST at a time, bounded in time, its address never told."""

import ssl
from pathlib import Path
from typing import Self

import attrs
import httpx
import msgspec
import trio

from actors.ports.lane import RunSync
from actors.values import ADDRESS

TIMEOUT_S = 10.0
TRANSIENT = frozenset({408, 425, 429})
"""What the other side may answer otherwise a little later; 5xx too."""


class NotHeard(Exception):
    """The alert did not arrive; `reason` is fit for a log. `again` says whether another try may help."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


@attrs.define(eq=False)
class Webhook:
    """Posts JSON to one address, which is a secret: neither `repr` nor any error shows it.

    The address is given as it is, or lies in a file that is read anew for each POST.
    """

    run_sync: RunSync
    url: str = attrs.field(default="", repr=False)
    file: Path | None = None
    timeout_s: float = TIMEOUT_S
    transport: httpx.AsyncBaseTransport = attrs.field(
        repr=False, factory=lambda: httpx.AsyncHTTPTransport(verify=ssl.create_default_context(), trust_env=False)
    )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()

    async def post(self, body: object) -> None:
        """Return once the other side has taken it with a 2xx. `NotHeard` within `timeout_s`."""
        try:
            with trio.fail_after(self.timeout_s):
                status = await self._exchange(msgspec.json.encode(body))
        except trio.TooSlowError:
            raise NotHeard(f"no answer within {self.timeout_s:g} s", again=True) from None
        except httpx.TransportError as exc:  # its text may hold the address, so only its kind is told
            raise NotHeard(type(exc).__name__, again=True) from None
        if not 200 <= status < 300:
            raise NotHeard(f"answered {status}", again=status in TRANSIENT or status >= 500)

    async def _exchange(self, body: bytes) -> int:
        url = self.url if self.file is None else await self.run_sync(_read_url, self.file)
        headers = {"content-type": "application/json", "user-agent": "holdfast"}
        response = await self.transport.handle_async_request(httpx.Request("POST", url, headers=headers, content=body))
        await response.aclose()
        return response.status_code


def _read_url(file: Path) -> str:
    try:
        return ADDRESS.read(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise NotHeard(f"{file} holds no address: {type(exc).__name__}", again=True) from None
