"""Checks of TLS: whether the cloud's certificate is good here, and ours there; each fault has a remedy of its own."""

import ssl

import trio

from actors.commands.checks import Check, failed, ok
from actors.ports.tls import Tls, explain, fault
from actors.settings import Settings

ENDPOINT = "CLOUD_LOGGING_ENDPOINT"
ANOTHER_HOST = (62, 64)
"""OpenSSL's `X509_V_ERR_HOSTNAME_MISMATCH` and `…_IP_ADDRESS_MISMATCH`."""
NOT_YET_VALID, EXPIRED = 9, 10
"""`X509_V_ERR_CERT_NOT_YET_VALID` and `…_CERT_HAS_EXPIRED`."""


async def certificate(settings: Settings, host: str, port: int, *, within_s: float) -> Check:
    """Shake hands as a POST would, and say until when the cloud's certificate is good."""
    ours = Tls(settings.cloud_tls_ca_file, settings.cloud_tls_cert_file, settings.cloud_tls_key_file)
    context = await trio.to_thread.run_sync(ours.context, abandon_on_cancel=True)
    try:
        with trio.fail_after(within_s):
            stream = trio.SSLStream(await trio.open_tcp_stream(host, port), context, server_hostname=host)
            try:
                await stream.do_handshake()
                shown = stream.getpeercert()
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError:
        seen = f"{host}:{port} takes connections, but answers no TLS handshake within {within_s:g} s"
        return failed("tls", seen, f"does TLS listen on the port that {ENDPOINT} names?")
    except (OSError, trio.BrokenResourceError) as exc:
        return failed("tls", explain(exc) or "the cloud hung up in the handshake", remedy_of(fault(exc), settings))
    return ok("tls", f"the certificate is good until {shown['notAfter']}")


def hung_up(reason: str, settings: Settings) -> Check:
    """The handshake went well from our side, and then no answer came: with TLS 1.3 the server refuses us that late."""
    if settings.cloud_tls_cert_file:
        remedy = "does the cloud trust the authority that issued CLOUD_TLS_CERT_FILE, and is that one still valid?"
    else:
        remedy = "it may want a certificate of this device: set CLOUD_TLS_CERT_FILE and CLOUD_TLS_KEY_FILE"
    return failed("tls", f"after a good handshake: {reason}", remedy)


def remedy_of(error: ssl.SSLError | None, settings: Settings) -> str:
    """What to do about a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _to_trust_it(error.verify_code, settings)
    reason = ((error and error.reason) or "").upper()
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return f"no TLS is spoken there: is it another port, or http:// in {ENDPOINT}?"
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return "set CLOUD_TLS_CERT_FILE and CLOUD_TLS_KEY_FILE to a certificate that the cloud trusts"
    return "look into the log of whatever speaks TLS for the cloud"


def _to_trust_it(verify_code: int, settings: Settings) -> str:
    if verify_code in ANOTHER_HOST:
        return f"name the host in {ENDPOINT} as the certificate does"
    if settings.cloud_tls_ca_file:
        issuer = f"CLOUD_TLS_CA_FILE {settings.cloud_tls_ca_file} must hold the authority that issued it"
    else:
        issuer = "set CLOUD_TLS_CA_FILE to the certificate of the authority that issued it"
    by_date = {
        EXPIRED: "renew the cloud's certificate; is this device's clock right?",
        NOT_YET_VALID: "set this device's clock (timedatectl set-ntp true)",
    }
    return by_date.get(verify_code, issuer)
