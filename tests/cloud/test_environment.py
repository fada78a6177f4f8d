"""The app as hypercorn's command line starts it: settings of the environment, and whom it serves without keys."""

import socket
from typing import Any

import httpx
import pytest

from cloud.keyring import Keyring
from cloud.keys import Keys
from cloud.ledger.lane import run_inline
from cloud.ledger.sqlite import MEMORY, open_ledger
from cloud.service import create_app
from cloud.settings import SettingsWrong, own_names
from tests.cloud.world import envelope, payload


async def test_the_app_without_a_ledger_opens_the_one_of_the_environment_and_closes_it(tmp_path, monkeypatch):
    """As hypercorn's command line starts it."""
    monkeypatch.setenv("CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'cloud.db'}")
    for accepted in (1, 0):
        app: Any = create_app()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8001"
        ) as client:
            assert (await client.get("/ready")).status_code == 503
            async with app.test_app():
                assert (await client.get("/ready")).status_code == 200
                answer = await client.post("/log", content=envelope(payload(1)))
                assert answer.json()["accepted"] == accepted


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.9", 403)])
async def test_the_app_of_the_environment_without_keys_serves_this_machine_alone(tmp_path, monkeypatch, peer, status):
    """Hypercorn may have been told to bind any address: the app does not know, so it looks at who asks."""
    monkeypatch.setenv("CLOUD_DATABASE_URL", str(tmp_path / "cloud.db"))
    app: Any = create_app()
    async with app.test_app():
        transport = httpx.ASGITransport(app=app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/stats")
            assert answer.status_code == status


def test_the_app_refuses_a_wrong_environment_before_it_serves(monkeypatch):
    monkeypatch.setenv("CLOUD_DATABASE_URL", "mysql://x")
    with pytest.raises(SettingsWrong, match="CLOUD_DATABASE_URL"):
        create_app()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8001", 200), ("127.0.0.1:8001", 200), ("127.9.9.9", 200), ("[::1]:8001", 200),
        ("localhost.", 200), ("box.lan:8001", 200), (f"{socket.gethostname()}:8001", 200),
        ("evil.example:8001", 403), ("evil.example", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("10.0.0.9:8001", 403), ("[::2]:8001", 403), (":8001", 403),
        ("evil.example#localhost", 403),
    ],
)  # fmt: skip
async def test_without_keys_a_site_that_has_its_name_lead_here_neither_reads_nor_stores(host, status):
    """DNS rebinding: the browser is of this machine, and only the name that it sends is the stranger's."""
    async with open_ledger(MEMORY, run_sync=run_inline) as ledger:
        app: Any = create_app(ledger, names=own_names("Box.lan"))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={"Host": host}
        ) as client:
            for answer in (
                await client.get("/stats"),
                await client.get("/health"),
                await client.post("/log", content=envelope(payload(1))),
            ):
                assert answer.status_code == status
                assert status == 200 or ("Host" in answer.json()["detail"] and "evil" not in answer.text)
        assert (await ledger.stats()).total.total_predictions == (status == 200)


async def test_with_keys_the_service_has_any_name():
    async with open_ledger(MEMORY, run_sync=run_inline) as ledger:
        app: Any = create_app(ledger, keyring=Keyring(Keys.of(["k"])), names=own_names())
        transport = httpx.ASGITransport(app=app, client=("10.0.0.9", 1))
        headers = {"Host": "cloud.example", "Authorization": "Bearer k"}
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud.example", headers=headers) as client:
            assert (await client.get("/stats")).status_code == 200
