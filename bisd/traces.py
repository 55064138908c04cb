"""Traces: a span for every attempt, by the API of OpenTelemetry, which somebody else sets up (opentelemetry-instrument, say).

Names are those of OpenTelemetry's semantic conventions for HTTP clients. Of a URL only host and port are told: its path and
its query are the merchant's secret.
"""

from __future__ import annotations

from typing import assert_never
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bisd import __version__
from bisd.model import Answer, Delivered, Delivery, Fault, Message, NoResponse, Refusal, Response, Verdict

_TRACEPARENT = "traceparent"
_PORTS = {"https": 443, "http": 80}


def configured() -> Traces | None:
    """None while nobody has said where spans go: then they would cost, and lead nowhere."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return Traces(provider)


class Traces:
    """Begins spans."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("bisd", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, message: Message, delivery: Delivery) -> Span:
        """The span of one attempt, in the application's trace if the event carries one. The receiver is told of it by the
        message's `traceparent`."""
        given = {} if delivery.traceparent is None else {_TRACEPARENT: delivery.traceparent}
        span = self._tracer.start_span(
            "POST",
            context=self._propagator.extract(given, Context()),
            kind=SpanKind.CLIENT,
            attributes={
                "http.request.method": "POST",
                **_server(message.url),
                **({"http.request.resend_count": delivery.attempts} if delivery.attempts else {}),
                "bisd.webhook_id": delivery.webhook_id,
                "bisd.event_id": delivery.event_id,
                "bisd.attempt": delivery.attempts + 1,
            },
        )
        carried: dict[str, str] = {}
        self._propagator.inject(carried, trace.set_span_in_context(span, Context()))
        message.headers[_TRACEPARENT] = carried[_TRACEPARENT]
        return Span(span)


class Span:
    """One attempt's. One that never ends, because the attempt was cut short, is told to nobody."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, answer: Answer, verdict: Verdict) -> None:
        span = self._span
        if isinstance(answer, Response):
            span.set_attribute("http.response.status_code", answer.status)
        if not isinstance(verdict, Delivered):
            span.set_attribute("error.type", _error(answer))
            span.set_status(StatusCode.ERROR)
        span.set_attribute("bisd.verdict", verdict.word)
        span.end()


def _error(answer: Answer) -> str:
    match answer:
        case Response(status=status):
            return str(status)
        case NoResponse(code=code) | Refusal(code=code) | Fault(code=code):
            return code.value
        case _:
            assert_never(answer)


def _server(url: str) -> dict[str, str | int]:
    """Host and port; nothing of what is no URL, which nobody will be sent to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return {}
    return {} if host is None or port is None else {"server.address": host, "server.port": port}
