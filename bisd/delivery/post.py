"""Post: one POST under limits. Whatever happens on the way is an Answer, decided by the type of what was raised."""

from __future__ import annotations

import asyncio
import errno
import ssl
from functools import lru_cache
from http import HTTPStatus
from time import monotonic

import aiohttp
from aiohttp.http import HttpProcessingError

from bisd import authorities, resolver
from bisd.client import Client, Connector, Destination, Notes, Securing, TooBig
from bisd.config import DeliveryConfig, EgressConfig
from bisd.egress import AddressRefused, Egress
from bisd.errors import ConfigurationError, UrlRefusedError
from bisd.model import Answer, Code, Fault, Message, NoResponse, Refusal, Response, Timings

# The status decides; what follows it is only kept to be looked at, and gets little time.
_BODY_TIMEOUT = 2.0
# Below the idle limits of common servers (5 s and more), so that they do not close what we are about to use.
_KEEPALIVE = 4.0
# Headers, interim answers, chunk framing and trailers of one answer.
_MOST_FRAMING = 64 << 10
# For TLS 1.2; those of 1.3 are not chosen by this.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES256+SHA384:ECDHE+AES128+SHA256"
# Verification results of OpenSSL (x509_vfy.h).
_CERTIFICATE = {
    9: Code.TLS_EXPIRED,  # not yet valid
    10: Code.TLS_EXPIRED,
    18: Code.TLS_UNTRUSTED,  # self-signed
    19: Code.TLS_UNTRUSTED,  # self-signed, in the chain
    20: Code.TLS_UNTRUSTED,  # of an unknown authority
    21: Code.TLS_UNTRUSTED,
    62: Code.TLS_NAME,
    64: Code.TLS_NAME,
}
# Out of descriptors or memory, or without a network: no receiver can help it.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN}
# We are not on any network; or the receiver is on one that is not ours (IPv6, as a rule), which it could help.
_UNREACHABLE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL}
_WITHOUT_ANSWER = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)
# How a connection that was kept open too long ends.
_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)


class Post:
    """The client: one at a time, for one configuration. Use as an asynchronous context manager, or open it and retire it."""

    def __init__(self, delivery: DeliveryConfig, egress: EgressConfig) -> None:
        self._config = delivery
        self._egress = Egress(egress)
        self._ca_file = egress.ca_file
        self._timeout = self._time(delivery.timeout.total_seconds())
        # Judged once per URL, not once per POST; refusals are not kept.
        self._destination = lru_cache(maxsize=8192)(self._permit)
        self.timeout = delivery.timeout
        self._under_way = 0
        self._ended = asyncio.Event()
        self._client: Client
        self._resolver: resolver.GuardedResolver

    async def open(self) -> Post:
        """Raises ConfigurationError for a file of authorities that is none, OSError if there is no descriptor left."""
        # Reading the authorities of the whole web takes long enough for others to notice.
        tls = await asyncio.to_thread(self._tls)
        self._resolver = resolver.guarded(self._egress, self._patience())
        connector = Connector(
            self._config.max_response_bytes + _MOST_FRAMING,
            self._egress.open_socket,
            resolver=self._resolver,
            use_dns_cache=False,
            ssl=tls,
            limit=0,
            keepalive_timeout=_KEEPALIVE,
        )
        self._client = Client(connector)
        return self

    async def retire(self) -> None:
        """Closes it as soon as nothing that it carries is under way any more. Nothing is to be sent by it from now on."""
        try:
            self._ended.clear()
            if self._under_way:
                await self._ended.wait()
        finally:
            await self.close()

    async def __aenter__(self) -> Post:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()
        await self._resolver.close()  # aiohttp closes only one of its own making

    async def send(self, message: Message) -> Answer:
        """POSTs the message, once. Raises nothing that a receiver or the network could bring about."""
        try:
            destination = self._destination(message.url)
        except UrlRefusedError:
            return Refusal(Code.REFUSED_URL)
        began = monotonic()
        notes = Notes()
        timeout = self._timeout
        self._under_way += 1
        try:
            while True:
                try:
                    reply = await self._client.post(destination, message, timeout, notes)
                except _WITHOUT_ANSWER as fault:
                    _let_go(fault)
                    # Sent on a connection that had been kept open too long, which ended without a byte of an answer: once
                    # more, on a fresh one.
                    if not notes.fresh and notes.stale and isinstance(fault, _CLOSED):
                        notes = Notes(fresh=True)
                        timeout = self._time(self._config.timeout.total_seconds() - (monotonic() - began))
                        continue
                    return _without_answer(fault, _timings(notes, None, began), resent=notes.fresh)
                first_byte = (monotonic() - began) * 1000
                try:
                    body = await self._read(reply.content, began)
                finally:
                    reply.end()
                code, headers, timings = reply.head.code, reply.head.headers, _timings(notes, first_byte, began)
                return Response(code, headers.get("Retry-After"), body, timings, notes.fresh, headers.get("Location"))
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._ended.set()

    async def reach(self, url: str) -> Answer | None:
        """Resolves, connects and shakes hands, as for a POST, and asks for nothing; None: that went well."""
        notes, began = Notes(fresh=True), monotonic()
        try:
            await self._client.reach(self._destination(url), self._timeout, notes)
        except UrlRefusedError:
            return Refusal(Code.REFUSED_URL)
        except _WITHOUT_ANSWER as fault:
            return _without_answer(fault, _timings(notes, None, began), resent=False)
        return None

    def _permit(self, url: str) -> Destination:
        permitted = self._egress.permit_url(url)
        return Destination(permitted.url, permitted.target, self._egress.proxy)

    def _time(self, seconds: float) -> aiohttp.ClientTimeout:
        """So much for an attempt, and no more for connecting than was configured."""
        return aiohttp.ClientTimeout(
            connect=max(0.001, seconds),
            sock_connect=self._config.connect_timeout.total_seconds(),
            # aiohttp rounds longer timeouts up to a whole second of the loop's; ours are what was configured.
            ceil_threshold=float("inf"),
        )

    async def _read(self, content: aiohttp.StreamReader, began: float) -> bytes:
        """The first bytes of the answer; what goes wrong with them does not change the status."""
        most = self._config.max_response_bytes
        body = bytearray()
        try:
            if content.is_eof():
                return content.read_nowait(most)
            async with asyncio.timeout(min(_BODY_TIMEOUT, self._config.timeout.total_seconds() - (monotonic() - began))):
                while len(body) < most and (chunk := await content.read(most - len(body))):
                    body += chunk
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        return bytes(body)

    def _patience(self) -> float:
        """Seconds for a name: half the timeout at most, so that there is time to find out whose fault it is."""
        return min(self._config.connect_timeout, self._config.timeout / 2).total_seconds()

    def _tls(self) -> ssl.SSLContext:
        """Chains and names are verified, always. Not create_default_context, which obeys SSLKEYLOGFILE."""
        context = Securing(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        # A receiver may choose the group of a key exchange: one of 8192 bits would stop all others for a third of a second. No
        # finite fields therefore, and the curve that RFC 8446 (9.1) requires of everyone.
        context.set_ciphers(_CIPHERS)
        context.set_ecdh_curve("prime256v1")
        context.load_default_certs()
        if self._ca_file is not None:
            try:
                context.load_verify_locations(cadata=authorities.read(self._ca_file).der)
            except ValueError as fault:
                raise ConfigurationError([f"egress.ca_file: {self._ca_file} {fault}"]) from None
        return context


def _without_answer(fault: BaseException, timings: Timings, *, resent: bool) -> Answer:
    """What went wrong, by its type: with the receiver, with us, or because it may not be."""
    cause = fault.os_error if isinstance(fault, aiohttp.ClientConnectorError) else fault
    if isinstance(cause, AddressRefused):
        return Refusal(Code.REFUSED_ADDRESS)
    if isinstance(cause, resolver.ResolverSilent):
        return Fault(Code.RESOLVER)
    if isinstance(fault, aiohttp.ClientProxyConnectionError) or (isinstance(cause, OSError) and _is_ours(cause)):
        return Fault(Code.NETWORK)
    if isinstance(fault, aiohttp.ClientHttpProxyError):
        return _by_proxy(fault.status, timings)
    return NoResponse(_code(fault), timings, resent)


def _let_go(fault: BaseException | None) -> None:
    """Its frames hold the message and the connection, which holds the fault: they would stay until the collector comes, which
    comes seldom."""
    while fault is not None:
        fault.__traceback__ = None
        fault = fault.__cause__ or fault.__context__


def _is_ours(fault: OSError) -> bool:
    return fault.errno in _OURS or (fault.errno in _UNREACHABLE and not resolver.has_route())


def _by_proxy(status: int, timings: Timings) -> Answer:
    """What our proxy says instead of a connection: that it may not be (403), that we may not ask (407), or that it failed."""
    match status:
        case HTTPStatus.FORBIDDEN:
            return Refusal(Code.REFUSED_ADDRESS)
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return Fault(Code.NETWORK)
        case _:
            return NoResponse(Code.CONNECT, timings)


def _code(fault: BaseException) -> Code:
    match fault:
        case aiohttp.ClientConnectorDNSError():
            return Code.DNS
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError(verify_code=number)):
            return _CERTIFICATE.get(number, Code.TLS)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return Code.TLS
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
            return Code.CONNECT  # closed or filtered: from outside there is no difference to be told
        case TimeoutError():
            return Code.TIMEOUT
        case TooBig():
            return Code.TOO_BIG
        case aiohttp.ServerDisconnectedError() | OSError():
            return Code.DISCONNECTED
        case _:
            return Code.BAD_RESPONSE


def _timings(notes: Notes, first_byte: float | None, began: float) -> Timings:
    return Timings(notes.dns, notes.connect, notes.tls, first_byte, (monotonic() - began) * 1000)
