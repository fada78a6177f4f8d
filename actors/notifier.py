"""Tell a webhook of every alert, in order: each is tried until it is heard, or refused for good."""

import random
from datetime import UTC, datetime

import structlog
import trio

from actors.backoff import backoff_s
from actors.messages import AlertChange
from actors.ports.webhook import NotHeard, Webhook

MULTIPLIER = 2.0
PAUSE_MAX_S = 60.0
"""While nobody answers, alerts are tried at least this often; the network that carries them is often what is down."""

log = structlog.get_logger()


async def run(
    changes: trio.MemoryReceiveChannel[AlertChange], *, webhook: Webhook, device_id: str, rng: random.Random
) -> None:
    """Pass on what comes, one after another, until the changes end; then close the webhook."""
    with changes:
        async with webhook:
            async for change in changes:
                await tell(change, webhook, device_id, rng)


async def tell(change: AlertChange, webhook: Webhook, device_id: str, rng: random.Random) -> None:
    """Try until it is heard; a refusal that another try would not mend is logged, and the next alert's turn comes."""
    attempt = 0
    while True:
        try:
            await webhook.post(said(change, device_id))
        except NotHeard as exc:
            if attempt == 0 or not exc.again:
                log.warning("alert_not_heard", name=change.name, reason=exc.reason, again=exc.again)
            if not exc.again:
                return
            await trio.sleep(backoff_s(attempt, multiplier=MULTIPLIER, rng=rng, max_s=PAUSE_MAX_S))
            attempt += 1
        else:
            return


def said(change: AlertChange, device_id: str) -> dict[str, object]:
    """The body: fields for programs, and `text`, which Slack, Mattermost and Teams-like services show as it is."""
    verb = "ALERT" if change.began else "over"
    held = "" if change.began else f" (held {change.held_s:g} s)"
    return {
        "text": f"{device_id}: {verb} {change.name}: {change.detail}{held}",
        "edge_device_id": device_id,
        "alert": change.name,
        "state": "firing" if change.began else "resolved",
        "detail": change.detail,
        "at": datetime.fromtimestamp(change.at, tz=UTC).isoformat(),
        "held_s": change.held_s,
    }
