"""`audit`: the device's books against the cloud's, number by number."""

import attrs
import click
import trio

from actors import fitting
from actors.audit import WAY_REMEDY, Finding, compare, heard
from actors.commands.options import fail, json_option, say, tells, with_settings
from actors.ports.account import read_account
from actors.ports.client import Unreachable
from actors.ports.lane import thread_lane
from actors.ports.opening import NoBooks
from actors.settings import Settings


@click.command()
@json_option
@with_settings(
    *("cloud_logging_endpoint", "cloud_logging_api_key_file"),
    *("cloud_tls_ca_file", "cloud_tls_cert_file", "cloud_tls_key_file"),
    *("edge_device_id", "buffer_db_path", "timeout_seconds"),
)
@tells(NoBooks, ValueError)
def audit(settings: Settings, *, as_json: bool) -> None:
    """Compare the device's books with the cloud's, number by number.

    Safe while the device runs. Exit code 0: nothing is missing; 1: something is; 2: it could not be compared.
    """
    try:
        finding = trio.run(find, settings)
    except Unreachable as exc:
        seen = f"CLOUD_LOGGING_ENDPOINT {settings.cloud_logging_endpoint}: {exc}"
        fail(f"{seen}; nothing could be compared, {WAY_REMEDY}")
    say(as_json, attrs.asdict(finding), [f"{settings.edge_device_id}: {finding.sentence()}"])
    raise SystemExit(0 if finding.good else 1)


async def find(settings: Settings) -> Finding:
    """Ask the cloud, and hold its answer against the buffer. `NoBooks`, `Unreachable`, `ValueError`."""
    account = read_account(settings.buffer_db_path)
    audits = {}
    async with fitting.client(settings, thread_lane()) as client:
        for device_id in {stream.device_id for stream in account.streams}:
            answer = await client.audit(device_id)
            try:
                told = heard(answer.status, answer.headers, answer.body)
            except ValueError as exc:
                raise ValueError(f"{settings.cloud_logging_endpoint}: {exc}") from exc
            if told is not None:
                audits[device_id] = told
    # A device that runs has gone on since, and so has the cloud.
    return compare(account, audits, given_out=read_account(settings.buffer_db_path).accepted)
