"""TLS over real sockets: whom the device trusts, what it shows, what rotates, and what the log says of the rest."""

import contextlib
import os
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial

import pytest
import structlog
import trio
import trustme

from actors.loading import load_settings
from actors.ports.client import ApiKey, CloudClient, Unreachable
from actors.ports.tls import Tls, TlsUnusable
from actors.settings import SettingsError

ANSWER = b"HTTP/1.1 200 OK\r\nholdfast-wire: 1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """HTTPS on a loopback port: notes who the client says it is, answers `{}`, and can keep an answer back."""

    def __init__(self, context):
        self.context, self.clients, self.go_on = context, [], trio.Event()
        self.go_on.set()
        self.arrived = trio.Event()
        self.endpoint = ""

    async def answer(self, stream):
        tls = trio.SSLStream(stream, self.context, server_side=True)
        try:
            await tls.do_handshake()
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = await tls.receive_some(65536)
                    if not data:
                        return
                    head += data
                certificate = tls.getpeercert()
                self.clients.append(certificate["subjectAltName"][0][1] if certificate else "nobody")
                self.arrived.set()
                await self.go_on.wait()
                await tls.send_all(ANSWER)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client did not like us, or we did not like it
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(authority, *, name="127.0.0.1", clients_of=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients_of.configure_trust(context)
    server = Server(context)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.answer, 0, host="127.0.0.1"))
        server.endpoint = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/log"
        yield server
        nursery.cancel_scope.cancel()


def put(path, blob):
    """Replace a file as a rotation does: whole, or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(blob.bytes())
    os.replace(fresh, path)  # noqa: PTH105
    return path


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def client_of(server, tls=None):
    return CloudClient(server.endpoint, timeout_s=10, key=ApiKey("s3same"), tls=tls)


async def reason_of(client):
    with pytest.raises(Unreachable) as caught:
        await client.post(b"{}")
    assert "s3same" not in caught.value.reason
    return caught.value.reason


async def test_a_private_authority_is_trusted_by_its_file_and_by_nothing_else(authority, tmp_path):
    ca = put(tmp_path / "ca.pem", authority.cert_pem)
    async with serving(authority) as server:
        async with client_of(server, Tls(ca)) as client:
            assert (await client.post(b"{}")).status == 200
            assert (await client.probe(timeout_s=5)).status == 200
        async with client_of(server) as client:
            assert "the cloud's certificate is not trusted" in await reason_of(client)
    async with serving(trustme.CA()) as server, client_of(server, Tls(ca)) as client:
        assert "the cloud's certificate is not trusted" in await reason_of(client)


async def test_a_certificate_for_another_host_is_not_the_cloud(authority, tmp_path):
    ca = put(tmp_path / "ca.pem", authority.cert_pem)
    async with serving(authority, name="elsewhere.example") as server, client_of(server, Tls(ca)) as client:
        reason = await reason_of(client)
    assert "certificate is not trusted" in reason
    assert "127.0.0.1" in reason


async def test_a_client_certificate_says_who_the_device_is(authority, tmp_path):
    ca = put(tmp_path / "ca.pem", authority.cert_pem)
    device = authority.issue_cert("camera-7.example")
    cert, key = put(tmp_path / "c.pem", device.cert_chain_pems[0]), put(tmp_path / "k.pem", device.private_key_pem)
    both = put(tmp_path / "both.pem", device.private_key_and_cert_chain_pem)
    async with serving(authority, clients_of=authority) as server:
        for tls in (Tls(ca, cert, key), Tls(ca, both)):
            async with client_of(server, tls) as client:
                assert (await client.post(b"{}")).status == 200
        assert server.clients == ["camera-7.example"] * 2
        async with client_of(server, Tls(ca)) as client:
            await reason_of(client)
    assert len(server.clients) == 2, "without one, nothing gets through"


def turn_away_once(listener, context):
    """OpenSSL's own way to refuse: unlike Trio's, it says why before it hangs up."""
    connection, _ = listener.accept()
    connection.settimeout(5)
    # The second handle keeps the door open until the client has gone: else a reset may overtake the word.
    with connection.dup() as door, contextlib.suppress(OSError):
        door.settimeout(5)
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True).recv(1)
        while door.recv(65536):
            pass


async def test_a_missing_client_certificate_is_told_with_the_setting_that_names_it(authority, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    ca = put(tmp_path / "ca.pem", authority.cert_pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, turn_away_once, listener, context)
            endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}/log"
            async with CloudClient(endpoint, timeout_s=10, key=ApiKey("s3same"), tls=Tls(ca)) as client:
                reason = await reason_of(client)
    assert "certificate required" in reason
    assert "CLOUD_TLS_CERT_FILE" in reason


async def test_rotated_certificates_are_used_by_the_next_post_and_cost_none_that_is_under_way(authority, tmp_path):
    """First one half of the pair, then the other: in between the old pair stays in force."""
    ca = put(tmp_path / "ca.pem", authority.cert_pem)
    old, new = authority.issue_cert("old.example"), authority.issue_cert("new.example")
    cert, key = put(tmp_path / "c.pem", old.cert_chain_pems[0]), put(tmp_path / "k.pem", old.private_key_pem)
    statuses = []
    async with serving(authority, clients_of=authority) as server, client_of(server, Tls(ca, cert, key)) as client:

        async def post():
            statuses.append((await client.post(b"{}")).status)

        await post()
        server.go_on, server.arrived = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            await server.arrived.wait()
            hold, server.go_on = server.go_on, trio.Event()
            server.go_on.set()
            put(cert, new.cert_chain_pems[0])
            with structlog.testing.capture_logs() as logs:
                await post()
                await post()
            assert [entry["event"] for entry in logs] == ["tls_files_unusable"], "said once"
            assert "the key does not belong to the certificate" in logs[0]["error"]
            assert server.clients[-1] == "old.example"
            put(key, new.private_key_pem)
            await post()
            assert server.clients[-1] == "new.example"
            assert len(statuses) == 4, "the one that is under way waits for its answer"
            hold.set()
    assert statuses == [200] * 5


async def test_a_new_authority_is_trusted_as_soon_as_its_file_is_there(tmp_path):
    old, new = trustme.CA(), trustme.CA()
    ca = put(tmp_path / "ca.pem", old.cert_pem)
    async with serving(new) as server, client_of(server, Tls(ca)) as client:
        assert "not trusted" in await reason_of(client)
        put(ca, new.cert_pem)
        assert (await client.post(b"{}")).status == 200


async def test_a_plain_server_and_a_plain_client_hear_that_it_is_tls_that_is_missing(authority, tmp_path):
    async def plain(stream):
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with CloudClient(f"https://127.0.0.1:{port}/log", timeout_s=10) as client:
            assert "TLS: " in await reason_of(client)
        nursery.cancel_scope.cancel()


async def test_a_name_that_nobody_knows_is_told_in_words():
    async with CloudClient("http://cloud.invalid/log", timeout_s=20) as client:
        assert "the name of the cloud can't be resolved" in await reason_of(client)


# --- files that are none


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (("nowhere.pem", None, None), "CLOUD_TLS_CA_FILE .*nowhere.pem: No such file"),
        (("rubbish.pem", None, None), "CLOUD_TLS_CA_FILE .*rubbish.pem: there is no certificate in it"),
        ((None, "c.pem", "nowhere.pem"), "CLOUD_TLS_CERT_FILE .*c.pem with CLOUD_TLS_KEY_FILE .*: No such file"),
        ((None, "c.pem", "other.pem"), "the key does not belong to the certificate"),
        ((None, "c.pem", "rubbish.pem"), "not in PEM format"),
        ((None, None, "k.pem"), "CLOUD_TLS_KEY_FILE is set without CLOUD_TLS_CERT_FILE"),
    ],
)
def test_files_that_can_not_be_used_are_told_at_the_start_and_their_content_is_not(authority, tmp_path, files, says):
    device = authority.issue_cert("camera-7.example")
    put(tmp_path / "c.pem", device.cert_chain_pems[0])
    put(tmp_path / "k.pem", device.private_key_pem)
    put(tmp_path / "other.pem", authority.issue_cert("other.example").private_key_pem)
    (tmp_path / "rubbish.pem").write_text("hunter2 is no certificate")
    names = ("CLOUD_TLS_CA_FILE", "CLOUD_TLS_CERT_FILE", "CLOUD_TLS_KEY_FILE")
    environ = {name: str(tmp_path / file) for name, file in zip(names, files, strict=True) if file}
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings(environ | {"HOME": str(tmp_path)})
    assert "hunter2" not in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)


def test_an_encrypted_key_is_refused_instead_of_asking_a_terminal(authority, tmp_path):
    from cryptography.hazmat.primitives import serialization as kinds

    device = authority.issue_cert("camera-7.example")
    key = kinds.load_pem_private_key(device.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        kinds.Encoding.PEM, kinds.PrivateFormat.PKCS8, kinds.BestAvailableEncryption(b"hunter2")
    )
    (tmp_path / "k.pem").write_bytes(encrypted)
    cert = put(tmp_path / "c.pem", device.cert_chain_pems[0])
    with pytest.raises(TlsUnusable, match="encrypted"):
        Tls(None, cert, tmp_path / "k.pem").context()
