"""Traces: the application's goes with the event to the receiver, and every attempt is a span in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """OpenTelemetry is set up: what was exported."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


async def within(shop: Shop, traceparent: str, statement: str = "select bisd.emit($1, 'order/paid', '{}')") -> str | None:
    """The statement, in a transaction that says it belongs to this trace; what the event keeps of it."""
    async with shop.connection.transaction():
        await shop.connection.execute("select set_config('bisd.traceparent', $1, true)", traceparent)
        await shop.connection.execute(statement, shop.account_id)
    kept: str | None = await shop.connection.fetchval("select traceparent from bisd.event order by id desc limit 1")
    return kept


async def test_an_event_keeps_the_trace_it_happened_in(shop: Shop) -> None:
    """However it was made; one of a transaction that said nothing keeps none, though the session did before."""
    await shop.connection.execute("create table public.orders (id bigint, shop_id bigint)")
    await shop.connection.execute(
        "select bisd.attach('public.orders', 'order/made', 'insert', account := 'shop_id', columns := '{id}')"
    )
    for statement in (
        "insert into bisd.notification (account_id) values ($1)",
        "select bisd.emit($1, 'order/paid', '{}')",
        "insert into public.orders values (1, $1)",
    ):
        assert GIVEN == await within(shop, GIVEN, statement)
    await shop.notify()
    assert None is await shop.connection.fetchval("select traceparent from bisd.event order by id desc limit 1")


@pytest.mark.parametrize(
    "given",
    [
        "", "nonsense", GIVEN + "\n", GIVEN + "-01", f"{GIVEN}\r\nX-Admin: 1", GIVEN.upper(), f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", "00-é", "0" * 100_000,
    ],
)  # fmt: skip
async def test_what_is_no_traceparent_is_passed_over(given: str, shop: Shop) -> None:
    """The application's insert succeeds, and the event has no trace."""
    assert None is await within(shop, given)


async def test_nobody_writes_another_header_into_an_event(shop: Shop) -> None:
    """Even who may write events as rows."""
    with pytest.raises(Exception, match="violates check constraint"):
        await shop.connection.execute(
            "insert into bisd.event (account_id, topic, body, traceparent) values (1, 't', '{}', $1)", f"{GIVEN}\r\nX-Admin: 1"
        )


async def test_the_receiver_gets_the_application_s_trace(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """As it was given, where no spans are made: whether it arrived, waited, or is a test, at every attempt; none without."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    test = f"select bisd.send_test({webhook_id}) where $1 > 0"
    await within(shop, GIVEN)
    await within(shop, GIVEN, test)
    receiver.statuses = [500] * 2
    async with running(configure(ca_file), dsn):
        await receiver.received(3)
        await within(shop, GIVEN)
        await receiver.received(4)
        await within(shop, GIVEN, test)
        await receiver.received(5)
        await shop.connection.execute("select bisd.emit($1, 'order/paid', '{}')", shop.account_id)
        await receiver.received(6)
    assert [GIVEN] * 5 + [None] == [got.headers.get("traceparent") for got in receiver.requests]


async def test_every_attempt_is_a_span(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, spans: InMemorySpanExporter
) -> None:
    """In the application's trace, named as OpenTelemetry names what an HTTP client does; the receiver is told of the span. Of
    the URL only host and port are in it."""
    webhook_id = await shop.subscribe("order/paid", receiver.url + "hunter2?token=hunter3")
    receiver.statuses = [500]
    await within(shop, GIVEN)
    async with running(configure(ca_file), dsn):
        await receiver.received(2)
    first, second = spans.get_finished_spans()
    own = {"bisd.webhook_id": webhook_id, "bisd.event_id": 1}
    host, port = receiver.url.removeprefix("https://").strip("/").split(":")
    common = {"http.request.method": "POST", "server.address": host, "server.port": int(port)} | own
    assert common | {"bisd.attempt": 1, "bisd.verdict": "retry", "http.response.status_code": 500, "error.type": "500"} == dict(
        first.attributes or {}
    )
    assert common | {
        "bisd.attempt": 2, "http.request.resend_count": 1, "bisd.verdict": "delivered", "http.response.status_code": 200
    } == dict(second.attributes or {})  # fmt: skip
    assert [("POST", SpanKind.CLIENT, StatusCode.ERROR), ("POST", SpanKind.CLIENT, StatusCode.UNSET)] == [
        (span.name, span.kind, span.status.status_code) for span in (first, second)
    ]
    assert [PARENT] * 2 == [f"{span.parent.span_id:016x}" if span.parent else None for span in (first, second)]
    assert [_traceparent(first), _traceparent(second)] == [got.headers["traceparent"] for got in receiver.requests]
    assert [TRACE] * 2 == [got.headers["traceparent"].split("-")[1] for got in receiver.requests]


async def test_what_brought_no_status_is_a_span_too(shop: Shop, ca_file: Path, dsn: str, spans: InMemorySpanExporter) -> None:
    """With the error that the attempt has; without a trace of the application's it begins one."""
    await shop.subscribe("order/paid", "https://127.0.0.1:1/")
    await shop.subscribe("order/paid", "https://10.0.0.1/")
    await shop.connection.execute("select bisd.emit($1, 'order/paid', '{}')", shop.account_id)
    async with running(configure(ca_file), dsn):
        await eventually(lambda: _ended(spans, 2))
    errors = {dict(span.attributes or {})["error.type"] for span in spans.get_finished_spans()}
    assert {"connect", "refused_url"} == errors
    assert {None} == {span.parent for span in spans.get_finished_spans()}


async def _ended(spans: InMemorySpanExporter, number: int) -> bool:
    return len(spans.get_finished_spans()) >= number


def _traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


@pytest.mark.parametrize(
    ("prelude", "made"),
    [
        ("sys.modules['opentelemetry'] = None", False),
        ("", False),
        ("from opentelemetry import trace; trace.set_tracer_provider(trace.NoOpTracerProvider())", False),
        ("from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider; "
         "trace.set_tracer_provider(TracerProvider())", True),
    ],
    ids=["not installed", "not set up", "switched off", "set up"],
)  # fmt: skip
def test_spans_are_made_only_where_they_lead_somewhere(prelude: str, made: bool) -> None:
    """Without opentelemetry-api, and while nobody has set OpenTelemetry up, attempts have nothing to do with it."""
    program = f"import sys; {prelude}\nfrom bisd import service\nprint(service._traces() is not None)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"{made}\n" == ran.stdout
