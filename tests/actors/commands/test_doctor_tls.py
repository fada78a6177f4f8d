"""`doctor` before TLS servers: a good one, and each way in which one can be wrong, with the remedy for that one."""

import contextlib
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import trio
import trustme

from actors.commands import checks_cloud, checks_tls
from actors.commands.checks import Verdict
from actors.commands.checks_tls import remedy_of
from actors.settings import Settings

ANSWER = b"HTTP/1.1 200 OK\r\nholdfast-wire: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"
LONG_AGO = datetime.now(UTC) - timedelta(days=3)
FAR = datetime.now(UTC) + timedelta(days=3)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@asynccontextmanager
async def listening(answer):
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/log"
        nursery.cancel_scope.cancel()


def speaking(certificate, *, clients_of=None):
    """A server behind `certificate`; with `clients_of`, for clients of that authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients_of.configure_trust(context)

    async def answer(stream):
        tls = trio.SSLStream(stream, context, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await tls.do_handshake()
            if head := await tls.receive_some(65536):
                await tls.send_all(ANSWER if head.startswith(b"HEAD") else ANSWER + b"{}")
        await trio.aclose_forcefully(stream)

    return answer


async def tls_of(answer, **settings):
    """What the line `tls` says, and what the whole list is."""
    async with listening(answer) as endpoint:
        asked = Settings(cloud_logging_endpoint=endpoint, **settings)
        found = [check async for check in checks_cloud.cloud(asked, False)]
    (check,) = (check for check in found if check.name == "tls")
    return check, [(one.name, one.verdict.value) for one in found]


@pytest.fixture
def trusted(authority, tmp_path):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


async def test_a_good_certificate_is_said_to_be_good_and_until_when(authority, trusted):
    check, whole = await tls_of(speaking(authority.issue_cert("127.0.0.1", not_after=FAR)), cloud_tls_ca_file=trusted)
    assert whole == [("name", "ok"), ("connection", "ok"), ("tls", "ok"), ("cloud", "ok"), ("key", "ok")]
    assert check.seen == f"the certificate is good until {FAR:%b %e %H:%M:%S %Y} GMT"


async def test_an_expired_one_is_to_be_renewed(authority, trusted):
    expired = authority.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1))
    check, whole = await tls_of(speaking(expired), cloud_tls_ca_file=trusted)
    assert whole[-1] == ("tls", "fail"), "nothing behind it is tried"
    assert "certificate has expired" in check.seen
    assert check.remedy.startswith("renew the cloud's certificate")


async def test_one_of_tomorrow_means_that_the_clock_is_wrong(authority, trusted):
    early = authority.issue_cert("127.0.0.1", not_before=FAR - timedelta(days=1), not_after=FAR)
    check, _ = await tls_of(speaking(early), cloud_tls_ca_file=trusted)
    assert "not yet valid" in check.seen
    assert "clock" in check.remedy


async def test_one_of_another_host_is_a_matter_of_the_endpoints_name(authority, trusted):
    for name in ("elsewhere.example", "127.0.0.2"):
        check, _ = await tls_of(speaking(authority.issue_cert(name)), cloud_tls_ca_file=trusted)
        assert check.verdict is Verdict.FAIL
        assert "127.0.0.1" in check.seen
        assert check.remedy == "name the host in CLOUD_LOGGING_ENDPOINT as the certificate does"


async def test_an_unknown_authority_is_a_matter_of_the_file_that_names_them(authority, trusted):
    of_a_stranger = speaking(trustme.CA().issue_cert("127.0.0.1"))
    check, _ = await tls_of(of_a_stranger)
    assert "unable to get local issuer certificate" in check.seen
    assert check.remedy == "set CLOUD_TLS_CA_FILE to the certificate of the authority that issued it"
    check, _ = await tls_of(of_a_stranger, cloud_tls_ca_file=trusted)
    assert check.remedy == f"CLOUD_TLS_CA_FILE {trusted} must hold the authority that issued it"


async def test_a_cloud_that_wants_a_certificate_of_ours_is_told_as_that(authority, trusted, tmp_path):
    """TLS 1.3 refuses a client after its handshake, so that this one looks good from here."""
    server = speaking(authority.issue_cert("127.0.0.1"), clients_of=authority)
    check, whole = await tls_of(server, cloud_tls_ca_file=trusted)
    assert whole[-1] == ("tls", "fail")
    assert "set CLOUD_TLS_CERT_FILE and CLOUD_TLS_KEY_FILE" in check.remedy
    both = tmp_path / "both.pem"
    trustme.CA().issue_cert("camera-7.example").private_key_and_cert_chain_pem.write_to_path(both)
    check, _ = await tls_of(server, cloud_tls_ca_file=trusted, cloud_tls_cert_file=both)
    assert check.remedy.startswith("does the cloud trust the authority that issued CLOUD_TLS_CERT_FILE")
    authority.issue_cert("camera-7.example").private_key_and_cert_chain_pem.write_to_path(both)
    check, _ = await tls_of(server, cloud_tls_ca_file=trusted, cloud_tls_cert_file=both)
    assert check.verdict is Verdict.OK


async def test_a_plain_server_is_told_as_one_that_speaks_no_tls():
    async def plain(stream):
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await stream.aclose()

    check, _ = await tls_of(plain)
    assert check.remedy == "no TLS is spoken there: is it another port, or http:// in CLOUD_LOGGING_ENDPOINT?"


async def test_one_that_hangs_up_and_one_that_says_nothing_are_told_in_words():
    async def hang_up(stream):
        await stream.receive_some(1000)
        await stream.aclose()

    check, _ = await tls_of(hang_up)
    assert check.verdict is Verdict.FAIL
    assert "look into the log" in check.remedy

    async def say_nothing(_):
        await trio.sleep_forever()

    async with listening(say_nothing) as endpoint:
        port = int(endpoint.split(":")[2].removesuffix("/log"))
        check = await checks_tls.certificate(Settings(), "127.0.0.1", port, within_s=0.05)
    assert "answers no TLS handshake within 0.05 s" in check.seen


@pytest.mark.parametrize("word", ["TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA"])
def test_older_tls_refuses_in_the_handshake_itself(word):
    error = ssl.SSLError(1, "told")
    error.reason = word
    assert "CLOUD_TLS_CERT_FILE" in remedy_of(error, Settings())
