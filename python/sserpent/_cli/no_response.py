"""Says why no response came, and what to look at. Knows neither input nor output."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx2

from .findings import Finding


def no_response(error: Exception, proxy: str = "") -> Finding:
    """Returns what is found where there is no response.

    Args:
        error: What was raised in its place, by the HTTP client or by what it stands on.
        proxy: The proxy that the environment names for the request; empty if there is none.
    """
    # In a group, where tasks have made the connection.
    while grouped := getattr(error, "exceptions", ()):
        error = grouped[0]
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    advice = _advice(error)
    if proxy and isinstance(error, httpx2.TransportError):
        advice += (
            f" The request goes to the proxy {proxy}, which the environment names: look there."
        )
    return Finding("fail", f"no response came: {why}", advice)


def _advice(error: Exception) -> str:
    causes = tuple(_causes(error))
    for kinds, advice in _ADVICE.items():
        if any(isinstance(cause, kinds) for cause in causes):
            return advice
    # No error of a connection: the client does not take what it is given.
    return (
        "The request cannot be sent: look at the URL, at a redirect's too, at --header, and at"
        " the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE)."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_NOBODY = "Is the server running, and on this host and port?"
# The first counts that is among the causes.
_ADVICE: dict[tuple[type[BaseException], ...], str] = {
    (ssl.SSLCertVerificationError,): (
        "This machine does not trust the certificate of the server: the message says why. For one"
        " that you have signed yourself, name its authority in SSL_CERT_FILE."
    ),
    (ssl.SSLError,): "Does the server speak TLS on this port? If not, ask with http://.",
    (socket.gaierror,): (
        "This machine does not know the name of the host: look at the URL, and at the DNS."
    ),
    (httpx2.ProxyError,): (
        "The proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) refuses the"
        " connection."
    ),
    (httpx2.ConnectError, httpx2.ConnectTimeout): _NOBODY,
    (httpx2.TimeoutException,): (
        f"{_NOBODY} If it is, the endpoint waits before it answers, or something on the way holds"
        " the response back until it is complete."
    ),
    (httpx2.TooManyRedirects,): (
        "The redirects lead in a circle: often a login's, or those of http:// and https://."
    ),
    (httpx2.RemoteProtocolError, httpx2.NetworkError): (
        "Something listens there, but does not answer in HTTP: look at the port, and whether"
        " http:// must be https://. Or the server has crashed: look at its log."
    ),
}
