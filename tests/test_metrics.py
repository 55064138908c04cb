"""Metrics: they say what happened, in as many series whoever is served; and what watches them asks for what there is."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import promql_parser as promql
import psutil
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bisd import db, log
from bisd.backlog import Backlog
from bisd.config import Config
from bisd.metrics import Histogram, Metrics, OwnProcess
from bisd.model import (
    Code,
    Delivered,
    Delivery,
    Expired,
    Fault,
    GaveUp,
    NoResponse,
    Outcome,
    Postponed,
    Refusal,
    Refused,
    Response,
    Retry,
    Timings,
    shard_of,
)
from bisd.service import Service
from bisd.sessions import Sessions
from tests.support.client import no_descriptors
from tests.support.daemon import configure, running
from tests.support.face import NOWHERE, facing
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Connect = Callable[[], Awaitable[db.Connection]]
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def shown(registry: CollectorRegistry) -> Series:
    """Every series by its name and labels."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert len({(one.name, *sorted(one.labels.items())) for one in samples}) == len(samples)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return shown(registry)[name, tuple(sorted(labels.items()))]


def by(registry: CollectorRegistry, name: str, *labels: str) -> dict[Any, float]:
    """What is not 0, by the values of these labels."""
    return labelled(shown(registry), name, *labels)


def labelled(series: Series, name: str, *labels: str) -> dict[Any, float]:
    return {
        tuple(dict(given)[label] for label in labels): number
        for (one, given), number in series.items()
        if one == name and number
    }


async def test_every_verdict_is_counted(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Delivered, retried, given up, expired and refused, for real: as many as the database has, by verdict and by code."""
    urls = {
        "taken": receiver.url, "later": receiver.url + "later", "never": receiver.url + "never",
        "moved": receiver.url + "moved", "late": receiver.url, "nobody": "https://127.0.0.1:1/", "forbidden": "http://example.com/",
    }  # fmt: skip
    for topic, url in urls.items():
        await shop.subscribe(topic, url)
        await shop.connection.execute("select bisd.emit($1, $2, '{}')", shop.account_id, topic)
    await shop.connection.execute(
        "with late as (update bisd.webhook set resumed_at = now() - interval '1 h' where topic = 'late' returning id) "
        "update bisd.delivery set owed_since = now() - interval '1 h' from late where webhook_id = late.id"
    )
    statuses = {"/later": [503], "/never": [500, 429, 404], "/moved": [302, 308, 300]}

    async def answer(request: web.Request) -> web.StreamResponse:
        left = statuses.get(request.path)
        return web.Response(status=left.pop(0) if left else 200)

    receiver.answer = answer
    async with running(configure(ca_file, expires_after=timedelta(minutes=30)), dsn) as service:
        registry = service.metrics.registry
        await eventually(lambda: is_settled(registry, len(urls)))
        verdicts = {(row[0],): row[1] for row in await shop.connection.fetch(_VERDICTS)}
        assert verdicts == by(registry, "bisd_deliveries_total", "verdict")
        codes = {(row[0], row[1]): row[2] for row in await shop.connection.fetch(_CODES)}
        assert codes == by(registry, "bisd_attempts_total", "code", "status")
    assert {("delivered",): 2, ("retry",): 7, ("failed",): 3, ("expired",): 1, ("refused",): 1} == verdicts
    assert {
        ("taken", "2xx"): 2, ("status", "5xx"): 2, ("status", "4xx"): 2, ("redirect", "3xx"): 3, ("connect", "none"): 3,
        ("refused_url", "none"): 1,
    } == codes  # fmt: skip


_VERDICTS = "select verdict::text, count(*) from bisd.attempt group by 1"
_CODES = """
    select case verdict when 'delivered' then 'taken' else code end, coalesce(left(status::text, 1) || 'xx', 'none'), count(*)
    from bisd.attempt where status is not null or code is not null group by 1, 2
"""


async def is_settled(registry: CollectorRegistry, number: int) -> bool:
    """Whether so many deliveries have come to their end."""
    ended = by(registry, "bisd_deliveries_total", "verdict")
    return sum(count for (verdict,), count in ended.items() if verdict not in ("retry", "postponed")) == number


async def test_what_is_our_fault_is_counted_as_ours(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Postponed, by its code, and the outage that all lanes wait for."""
    await shop.subscribe("before", receiver.url)
    for _ in range(4):
        await shop.subscribe("notification/create", receiver.url.replace("127.0.0.1", "127.0.0.2"))
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        await shop.connection.execute("select bisd.emit($1, 'before', '{}')", shop.account_id)
        await eventually(lambda: is_settled(registry, 1))
        with no_descriptors():
            await shop.notify()
            await eventually(lambda: _postponed(registry, 3))
            assert (1, 1) == (value(registry, "bisd_outage"), value(registry, "bisd_outages_total"))
        assert {("taken", "2xx"), ("network", "none")} == by(registry, "bisd_attempts_total", "code", "status").keys()


async def _postponed(registry: CollectorRegistry, least: int) -> bool:
    return value(registry, "bisd_deliveries_total", verdict="postponed") >= least


async def test_times_are_those_of_the_attempts(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """In seconds, as many as there were attempts, and their sums what the database has: what a new connection took too."""
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn) as service:
        await shop.notify(20)
        registry = service.metrics.registry
        await eventually(lambda: is_settled(registry, 20))
        row = await shop.connection.fetchrow(
            "select count(total_ms), sum(total_ms) / 1000, count(first_byte_ms), sum(first_byte_ms) / 1000, count(connect_ms), "
            "sum(connect_ms) / 1000, count(tls_ms), sum(tls_ms) / 1000, count(dns_ms), sum(dns_ms) / 1000, "
            "sum(extract(epoch from attempted_at - event_created_at))::float from bisd.attempt"
        )
        assert row is not None
        series = shown(registry)
    for place, phase in enumerate(("total", "first_byte", "connect", "tls", "dns")):
        count, total = row[2 * place : 2 * place + 2]
        labels = (("phase", phase),)
        assert count == series["bisd_attempt_seconds_count", labels]
        assert math.isclose(total, series["bisd_attempt_seconds_sum", labels], rel_tol=1e-4)
    assert 0 < row[4] == row[6] < 20
    for name in ("bisd_waiting_seconds", "bisd_event_to_send_seconds"):
        assert 20 == series[name + "_count", ()]
        assert math.isclose(row[10], series[name + "_sum", ()], rel_tol=1e-4)


async def test_a_retry_waits_from_when_it_was_due(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """And is no first attempt: how long an event takes to be sent does not count it."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500, 500]
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        await shop.notify()
        await eventually(lambda: is_settled(registry, 1))
        assert (3, 1) == (value(registry, "bisd_waiting_seconds_count"), value(registry, "bisd_event_to_send_seconds_count"))
        assert value(registry, "bisd_waiting_seconds_sum") < 0.3


async def test_arrivals_bells_and_batches(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What looks find, that a bell was heard, and the batches in which it is written."""
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        await shop.notify(30)
        await eventually(lambda: is_settled(registry, 30))
        series = shown(registry)
    assert (30, 30) == (series["bisd_arrivals_total", ()], series["bisd_writeback_batch_deliveries_sum", ()])
    assert series["bisd_bells_total", ()] >= 1
    assert series["bisd_look_seconds_count", ()] >= 2
    assert 1 <= series["bisd_writeback_batch_deliveries_count", ()] == series["bisd_writeback_seconds_count", ()] <= 30


async def test_what_is_held_at_this_moment(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """In flight, held in memory, lanes by state, workers, shards, members."""
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/hangs":
            await release.wait()
        return web.Response(status=500 if request.path == "/fails" else 200)

    receiver.answer = answer
    for path in ("hangs", "fails", "takes"):
        await shop.subscribe("notification/create", receiver.url + path)
    await shop.connection.execute("update bisd.webhook set max_in_flight = 2 where url like '%hangs'")
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        await shop.notify(12)
        await eventually(lambda: _holds(registry, 2, 1, 1, 1))
        series = shown(registry)
        release.set()
    assert (2, 64, 1, 1) == tuple(series[name, ()] for name in ("bisd_in_flight", "bisd_shards", "bisd_members", "bisd_ready"))
    assert series["bisd_held", ()] >= 10
    assert series["bisd_workers", ()] >= 2
    assert 1200 == series["bisd_in_flight_limit", ()]


async def _holds(registry: CollectorRegistry, in_flight: int, *lanes: int) -> bool:
    """Lanes that are well, failing, parked."""
    states = by(registry, "bisd_lanes", "state")
    return in_flight == value(registry, "bisd_in_flight") and (2, 1) == (states.get(("well",)), states.get(("parked",)))


async def test_sessions_are_counted_by_what_they_are_for(shop: Shop, ca_file: Path, dsn: str) -> None:
    """Each is opened once; when the database ends them, the intake's once more."""
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        assert 1 == value(registry, "bisd_database_connects_total", what="intake", result="ok")
        await shop.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await eventually(lambda: _connected(registry, 2))
    assert 1 == value(registry, "bisd_database_connects_total", what="start", result="ok")


async def _connected(registry: CollectorRegistry, times: int) -> bool:
    return value(registry, "bisd_database_connects_total", what="intake", result="ok") == times


async def test_there_are_as_many_series_with_ten_thousand_webhooks(shop: Shop, ca_file: Path, dsn: str) -> None:
    """Whoever is served: the same names with the same labels before the first webhook and with ten thousand lanes, and none of
    them has anybody's id, address or text."""
    async with facing(dsn, configure(ca_file)) as (service, face):
        registry = service.metrics.registry
        before = shown(registry).keys()
        await shop.connection.execute(
            "insert into bisd.webhook (account_id, topic, url, enabled) "
            "select $1, 'create', 'https://secret.example.com/' || n, true from generate_series(1, 10000) n",
            shop.account_id,
        )
        await eventually(lambda: _has_lanes(registry, 10_000))
        assert before == shown(registry).keys()
        text = (await face.get("/metrics")).body.decode()
    assert len(before) < 400
    assert [] == [word for word in ("secret", "example.com", "Tea Shop", shop.key) if word in text]


async def _has_lanes(registry: CollectorRegistry, number: int) -> bool:
    return value(registry, "bisd_lanes", state="well") == number


async def test_the_backlog_is_counted_by_how_webhooks_are_doing(shop: Shop, connect: Connect) -> None:
    """Owed to those that are well, that fail, that are parked, and held; of our shards only; and for how long it was due."""
    ids = [await shop.subscribe("create", "https://example.com/") for _ in range(5)]
    for _ in range(3):
        await shop.connection.execute("select bisd.emit($1, 'create', '{}')", shop.account_id)
    for change, webhook_id in zip(
        ["", "failing_since = now()", "failing_since = now(), next_probe_at = now()", "enabled = false", ""], ids, strict=True
    ):
        if change:
            await shop.connection.execute(f"update bisd.webhook set {change} where id = $1", webhook_id)
    await shop.connection.execute("update bisd.delivery set due_at = now() - interval '1 h' where webhook_id = $1", ids[1])
    await shop.connection.execute("update bisd.delivery set due_at = now() + interval '1 h' where webhook_id = $1", ids[2])
    await shop.connection.execute("analyze bisd.delivery")
    registry = await asked(connect, {shard_of(webhook_id) for webhook_id in ids[:4]})
    assert {("well",): 3, ("failing",): 3, ("parked",): 3, ("held",): 3} == by(registry, "bisd_backlog", "state")
    assert {("well",): 1, ("failing",): 1, ("parked",): 1, ("held",): 1} == by(registry, "bisd_backlog_webhooks", "state")
    assert 15 == value(registry, "bisd_backlog_estimate")
    oldest = by(registry, "bisd_backlog_oldest_seconds", "state")
    assert {("well",), ("failing",), ("held",)} == oldest.keys()
    assert (True, True) == (oldest["well",] < 60, 3600 <= oldest["failing",] < 3660)
    assert value(registry, "bisd_backlog_age_seconds") < 60


async def asked(connect: Connect, shards: Iterable[int]) -> CollectorRegistry:
    """What a backlog shows when it has asked once."""
    ready, registry = asyncio.Event(), CollectorRegistry()
    ready.set()
    async with Sessions(connect, 1) as sessions, asyncio.TaskGroup() as group:
        backlog = Backlog(sessions, lambda: shards, ready)
        registry.register(backlog)
        task = group.create_task(backlog.run())
        await eventually(lambda: _is_known(registry))
        task.cancel()
    return registry


async def _is_known(registry: CollectorRegistry) -> bool:
    return not math.isnan(value(registry, "bisd_backlog_age_seconds"))


async def test_more_is_not_counted(shop: Shop, connect: Connect) -> None:
    """Of each state so many at most, so that asking costs the same whatever is owed."""
    webhook_id = await shop.subscribe("create", "https://example.com/")
    await shop.connection.execute(
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) "
        "select $1, n, now(), 2 from generate_series(1, 12000) n",
        webhook_id,
    )
    assert 10_000 == value(await asked(connect, [shard_of(webhook_id)]), "bisd_backlog", state="well")


async def test_a_backlog_that_cannot_be_asked_for_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said once, whatever the fault, and asked for again; until then nobody is told a number."""
    log.configure("warning", "json")
    faults = [asyncpg.InsufficientPrivilegeError("no"), ConnectionRefusedError(), TimeoutError()]
    ready, registry = asyncio.Event(), CollectorRegistry()
    ready.set()

    async def fail() -> db.Connection:
        if len(faults) == 1:
            task.cancel()
        raise faults.pop(0)

    async with asyncio.timeout(20), Sessions(fail, 1) as sessions, asyncio.TaskGroup() as group:
        backlog = Backlog(sessions, tuple, ready, every=0.01)
        registry.register(backlog)
        task = group.create_task(backlog.run())
    assert ([], 1) == (faults, capsys.readouterr().err.count("backlog_unknown"))
    assert math.isnan(value(registry, "bisd_backlog", state="well"))


async def test_a_loop_that_is_busy_is_late(dsn: str, ca_file: Path) -> None:
    """Whoever blocks it is seen in how late its timers ring."""
    async with running(configure(ca_file), dsn) as service:
        registry = service.metrics.registry
        time.sleep(0.9)  # noqa: ASYNC251  (to block it is what is wanted)
        await eventually(lambda: _was_late(registry))
    assert value(registry, "bisd_loop_lag_seconds_sum") > 0.25


async def _was_late(registry: CollectorRegistry) -> bool:
    late = value(registry, "bisd_loop_lag_seconds_count") - value(registry, "bisd_loop_lag_seconds_bucket", le="0.25")
    return late == 1


def test_reloads_are_counted_and_the_last_one_is_told() -> None:
    """Before the first one the configuration is in force; after a bad one it is not what the file says."""
    metrics = Metrics()
    told = []
    for ok in (None, True, False, True):
        if ok is not None:
            metrics.reloaded(ok)
        told.append(value(metrics.registry, "bisd_config_last_reload_successful"))
    assert [1, 1, 0, 1] == told
    assert {("ok",): 2, ("failed",): 1} == by(metrics.registry, "bisd_config_reloads_total", "result")


def test_the_process_is_told_where_proc_shows_nothing_else(tmp_path: Path) -> None:
    """ProcSubset=pid leaves no /proc/stat: memory, CPU, descriptors and the start are shown all the same."""
    (tmp_path / "self").symlink_to("/proc/self")
    registry = CollectorRegistry()
    OwnProcess(registry=registry, proc=str(tmp_path))
    assert {
        "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
        "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
    } == {name for name, _ in shown(registry)}  # fmt: skip
    assert abs(value(registry, "process_start_time_seconds") - psutil.Process().create_time()) < 2


@given(
    st.lists(st.lists(st.floats(0, 10)), max_size=5), st.lists(st.sampled_from([0.5, 1.0, 2.0, 9.5]), unique=True, min_size=1)
)
def test_a_histogram_counts_what_is_at_most(batches: list[list[float]], bounds: list[float]) -> None:
    """Of all values of all batches, whatever their order: those up to each bound, all of them, and their sum; shown in the unit
    of the bounds where they came in thousandths of it."""
    bounds.sort()
    values = [one for batch in batches for one in batch]
    plain, thousandths = Histogram(bounds), Histogram(bounds, 1000.0)
    for batch in batches:
        plain.observe(list(batch))
        thousandths.observe([one * 1000 for one in batch])
    for histogram in (plain, thousandths):
        family = histogram.add_to(HistogramMetricFamily("x", "x", labels=[]))
        told = {one.labels.get("le", one.name): one.value for one in family.samples}
        assert [sum(one <= bound for one in values) for bound in bounds] == [told[str(bound)] for bound in bounds]
        assert (len(values), len(values)) == (told["+Inf"], told["x_count"])
        assert math.isclose(sum(values), told["x_sum"], abs_tol=1e-6)


TIMINGS = st.builds(
    Timings,
    st.none() | st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
    st.floats(0, 1e4),
)
FAILURES = st.sampled_from([Retry(NOW), GaveUp(), Expired()])
JUDGED = st.one_of(
    st.tuples(st.builds(Response, st.integers(200, 299), st.none(), st.just(b""), TIMINGS), st.just(Delivered())),
    st.tuples(st.builds(Response, st.integers(0, 999), st.none(), st.just(b""), TIMINGS), FAILURES),
    st.tuples(st.builds(NoResponse, st.sampled_from([Code.TIMEOUT, Code.DNS, Code.TLS_NAME]), TIMINGS), FAILURES),
    st.tuples(st.builds(Refusal, st.sampled_from([Code.REFUSED_URL, Code.EVENT_GONE])), st.just(Refused())),
    st.tuples(st.builds(Fault, st.sampled_from([Code.NETWORK, Code.INTERNAL])), st.just(Postponed(NOW))),
    st.tuples(st.none(), st.just(Expired())),
)


@given(st.lists(st.tuples(JUDGED, st.integers(0, 3), st.booleans()), max_size=20))
def test_a_batch_is_counted_as_one_by_one(given: list[tuple[Any, int, bool]]) -> None:
    """Whatever is in it, every outcome is in one verdict, unless the fence kept it, and every answer in one code; the labels
    are those that there always are."""
    outcomes, fenced = [], set()
    for number, ((answer, verdict), attempts, kept) in enumerate(given):
        delivery = Delivery(1, number, NOW, NOW, NOW + timedelta(seconds=attempts), attempts, "t", b"{}", 2)
        outcomes.append(Outcome(delivery, NOW + timedelta(seconds=5), answer, verdict))
        if kept:
            fenced.add((1, number))
    metrics, before = Metrics(), shown(Metrics().registry).keys()
    metrics.written(outcomes, fenced, 0.1)
    series = shown(metrics.registry)
    assert before == series.keys()
    settled = [one for one in outcomes if (1, one.delivery.event_id) not in fenced]
    assert Counter((one.verdict.word,) for one in settled) == labelled(series, "bisd_deliveries_total", "verdict")
    assert len(fenced) == series["bisd_writeback_fenced_total", ()]
    codes = Counter(_code(one) for one in outcomes if one.answer is not None)
    assert codes == labelled(series, "bisd_attempts_total", "code", "status")
    posts = [one for one in outcomes if isinstance(one.answer, Response | NoResponse)]
    assert len(posts) == series["bisd_waiting_seconds_count", ()]
    assert sum(one.delivery.attempts == 0 for one in posts) == series["bisd_event_to_send_seconds_count", ()]
    for phase, place in (("dns", 0), ("connect", 1), ("tls", 2), ("first_byte", 3), ("total", 4)):
        known = [one.answer.timings[place] for one in posts if one.answer.timings[place] is not None]  # type: ignore[union-attr]
        assert len(known) == series["bisd_attempt_seconds_count", (("phase", phase),)]


def _code(outcome: Outcome) -> tuple[str, str]:
    match outcome:
        case Outcome(answer=Response(status=status), verdict=Delivered()):
            return "taken", f"{status // 100}xx"
        case Outcome(answer=Response(status=status)) if 300 <= status <= 399:
            return "redirect", "3xx"
        case Outcome(answer=Response(status=status)):
            return "status", f"{status // 100}xx" if 100 <= status <= 599 else "other"
        case Outcome(answer=NoResponse(code=code) | Refusal(code=code) | Fault(code=code)):
            return code.value, "none"
    raise AssertionError(outcome)


def known_series() -> dict[str, set[str]]:
    """The name of every series that a daemon shows, and its labels."""
    registry = Service(replace(Config(), http=replace(Config().http, listen=None)), NOWHERE).metrics.registry
    return {name: {label for label, _ in labels} for name, labels in shown(registry)}


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0", "*/*"])
async def test_prometheus_reads_it(accept: str) -> None:
    """In the form that it asks for, and compressed if it says so."""
    async with facing() as (_, face):
        reply = await face.get("/metrics", f"Accept: {accept}")
        packed = await face.get("/metrics", f"Accept: {accept}", "Accept-Encoding: gzip")
    assert (
        ("openmetrics" in accept)
        == reply.body.endswith(b"# EOF\n")
        == reply.headers["Content-Type"].startswith("application/o")
    )
    if "openmetrics" in accept:
        families = list(openmetrics.text_string_to_metric_families(reply.body.decode()))
    else:
        families = list(text_string_to_metric_families(reply.body.decode()))
    assert known_series().keys() == {one.name for family in families for one in family.samples}
    assert ("gzip", True) == (packed.headers["Content-Encoding"], b"bisd_build_info{version=" in gzip.decompress(packed.body))


class Asked(NamedTuple):
    """A series that a query names, and every label that it matches by, groups by or joins by."""

    name: str
    labels: set[str]


def asks(query: str) -> list[Asked]:
    """Raises ValueError for what is no PromQL."""
    found, labels = [], set()
    for node in walk(promql.parse(query)):
        if isinstance(node, promql.VectorSelector):
            assert node.name is not None, query
            found.append(Asked(node.name, {one.name for one in node.matchers.matchers}))
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            labels |= set(node.modifier.labels)
    return [Asked(name, own | labels) for name, own in found]


def walk(node: Any) -> Iterator[Any]:
    """Every expression within an expression."""
    yield node
    for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, part, None)
        if isinstance(inner, promql.Expr):
            yield from walk(inner)
    for inner in getattr(node, "args", None) or []:
        yield from walk(inner)


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "config/prometheus-alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((ROOT / "config/grafana-dashboard.json").read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[tuple[str, str]]:
    """What each panel asks, as Prometheus gets it from Grafana."""
    return [
        (panel["title"], re.sub(r"\[\$\w+\]", "[5m]", target["expr"]).replace("$instance", ".*"))
        for panel in panels()
        for target in panel["targets"]
    ]


# What Prometheus itself adds.
ADDED = {"job", "instance"}


@pytest.mark.parametrize(("title", "query"), [(rule["alert"], rule["expr"]) for rule in alerts()] + dashboard_queries())
def test_who_watches_asks_for_what_there_is(title: str, query: str) -> None:
    """Every query of the alerts and of the dashboard is PromQL; its series exist, and have the labels that it goes by."""
    there = known_series() | {"up": set()}
    asked = asks(query)
    assert asked
    for name, labels in asked:
        assert name in there, f"{title}: {name}"
        assert labels <= there[name] | ADDED, f"{title}: {name}"


def test_every_metric_is_on_the_dashboard() -> None:
    """Whatever the daemon counts of its own can be looked at, without writing a query first."""
    shown_there = {name for _, query in dashboard_queries() for name, _ in asks(query)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_series() if name.startswith("bisd_")}
    assert set() == ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown_there}


def test_every_alert_says_what_to_do() -> None:
    """In a summary and a runbook; how bad it is; and how long it is watched before anybody is woken."""
    for rule in alerts():
        assert {"alert", "expr", "for", "labels", "annotations"} == rule.keys(), rule
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "runbook"} == rule["annotations"].keys()
        assert all(text.endswith(".") and len(text) > 40 for text in rule["annotations"].values())


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    """No two at the same place, none beyond the edge, each with a title and a unit."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert set() == cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
