"""The body of a request, as it comes in: within bounds of size and time."""

from __future__ import annotations

import asyncio

from aiohttp import web

# Seconds.
_COMES_WITHIN = 10.0


async def read(request: web.Request, largest: int) -> bytes:
    """All of it, `largest` octets at most. Raises what HTTP has for what is more, comes late, or breaks off."""
    octets = bytearray()
    if (request.content_length or 0) > largest:
        raise _too_large(largest, request.content_length or 0)
    try:
        async with asyncio.timeout(_COMES_WITHIN):
            async for chunk in request.content.iter_any():
                octets += chunk
                if len(octets) > largest:
                    raise _too_large(largest, len(octets))
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"The body has not arrived within {_COMES_WITHIN:.0f} seconds.") from None
    except (ConnectionResetError, web.RequestPayloadError):
        raise web.HTTPBadRequest(text="The body breaks off.") from None
    return bytes(octets)


def _too_large(largest: int, size: int) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(largest, size, text=f"The body has more than {largest} octets.")
