"""Post: one POST under limits. Whatever happens on the way is an Answer, decided by the type of what was raised."""

from __future__ import annotations

import asyncio
import errno
import ssl
from time import monotonic

import aiohttp

from bisd import egress as egress_module
from bisd.client import Connecting, Connector, Request, connecting
from bisd.config import DeliveryConfig, EgressConfig
from bisd.egress import AddressRefused, Egress, ResolverSilent
from bisd.errors import UrlRefusedError
from bisd.model import Answer, Code, Fault, Message, NoResponse, Refusal, Response, Timings

# The status decides; what follows it is only kept to be looked at, and gets little time.
_BODY_TIMEOUT = 2.0
# Below the idle limits of common servers (5 s and more), so that they do not close what we are about to use.
_KEEPALIVE = 4.0
# Out of descriptors, ports or memory, or without a network: no receiver can help it.
_OURS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
}


class Post:
    """The client, one for the process. Use as an asynchronous context manager."""

    def __init__(self, delivery: DeliveryConfig, egress: EgressConfig) -> None:
        self._config = delivery
        self._egress = Egress(egress)
        self._ca_file = egress.ca_file
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Post:
        connector = Connector(
            resolver=egress_module.resolver(self._egress, self._config.connect_timeout.total_seconds()),
            socket_factory=self._egress.open_socket,
            use_dns_cache=False,
            ssl=self._tls(),
            limit=0,
            keepalive_timeout=_KEEPALIVE,
        )
        timeout = aiohttp.ClientTimeout(
            total=self._config.timeout.total_seconds(),
            sock_connect=self._config.connect_timeout.total_seconds(),
            # aiohttp rounds longer timeouts up to a whole second of the loop's; ours are what was configured.
            ceil_threshold=float("inf"),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=Request,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=1 << 14,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, message: Message) -> Answer:
        """POSTs the message, once. Raises nothing that a receiver or the network could bring about."""
        if len(message.body) > self._config.max_body_bytes:
            return Refusal(Code.BODY_TOO_BIG)
        if not message.body:
            return Refusal(Code.EVENT_GONE)
        try:
            url = self._egress.permit_url(message.url)
        except UrlRefusedError:
            return Refusal(Code.REFUSED_URL)
        notes = Connecting()
        connecting.set(notes)
        began = monotonic()
        try:
            async with self._session.post(url, data=message, allow_redirects=False) as response:
                first_byte = (monotonic() - began) * 1000
                body = await self._read(response)
        except AddressRefused:
            return Refusal(Code.REFUSED_ADDRESS)
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            cause = fault.os_error if isinstance(fault, aiohttp.ClientConnectorError) else fault
            if isinstance(cause, AddressRefused):
                return Refusal(Code.REFUSED_ADDRESS)
            if isinstance(cause, ResolverSilent):
                return Fault(Code.RESOLVER)
            if isinstance(cause, OSError) and cause.errno in _OURS:
                return Fault(Code.NETWORK)
            return NoResponse(_code(fault), _timings(notes, None, began))
        timings = _timings(notes, first_byte, began)
        return Response(response.status, response.headers.get("Retry-After"), body, timings)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The first bytes of the answer; what goes wrong with them does not change the status."""
        most = self._config.max_response_bytes
        content = response.content
        if content.is_eof():
            return content.read_nowait(most)
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                while len(body) < most and (chunk := await content.read(most - len(body))):
                    body += chunk
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        if not content.at_eof():
            response.close()  # rather than read on: the connection is not worth what may still come
        return bytes(body)

    def _tls(self) -> ssl.SSLContext:
        """Chains and names are verified, always. Not create_default_context, which obeys SSLKEYLOGFILE."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_default_certs()
        if self._ca_file is not None:
            context.load_verify_locations(cafile=self._ca_file)
        return context


def _code(fault: BaseException) -> Code:
    match fault:
        case aiohttp.ClientConnectorDNSError():
            return Code.DNS
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return Code.TLS
        case TimeoutError():
            return Code.TIMEOUT
        case aiohttp.ClientConnectorError():
            return Code.CONNECT
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
            return Code.DISCONNECTED
        case _:
            return Code.BAD_RESPONSE


def _timings(notes: Connecting, first_byte: float | None, began: float) -> Timings:
    return Timings(notes.dns, notes.connect, first_byte, (monotonic() - began) * 1000)
