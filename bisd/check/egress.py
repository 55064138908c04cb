"""The way out: whether the webhooks' URLs are permitted, and whether their hosts can be reached from here. Nothing is asked of
a host: it is resolved, dialled, and greeted as far as TLS goes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from bisd import db
from bisd.check.finding import Finding, Subject, fault, ok, some, unseen, warning
from bisd.config import Config
from bisd.delivery.post import Post
from bisd.egress import Egress
from bisd.errors import UrlRefusedError
from bisd.model import Answer, Fault, NoResponse, Refusal, Response

# Of those to which most webhooks go.
_HOSTS = 20
_WITHIN = 15.0

Hosts = Mapping[str, list[int]]


async def egress(connection: db.Connection, config: Config) -> list[Finding]:
    judge = Egress(config.egress)
    refused: list[str] = []
    hosts: dict[str, list[int]] = defaultdict(list)
    urls: dict[str, str] = {}
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(db.query("check_urls")):
            try:
                origin = str(judge.permit_url(row["url"]).url.origin())
            except UrlRefusedError:
                refused.append(str(row["id"]))
            else:
                hosts[origin].append(row["id"])
                urls[origin] = row["url"]
    if refused:
        says = f"[egress] refuses the URLs of {len(refused)} webhooks that are on: {some(refused)}"
        found = [warning(Subject.EGRESS, f"{says}; see its ports, allow and allow_http")]
    else:
        found = [ok(Subject.EGRESS, "the URLs of all webhooks that are on are permitted")]
    sample = sorted(hosts, key=lambda origin: -len(hosts[origin]))[:_HOSTS]
    return [*found, *await _reach({origin: urls[origin] for origin in sample}, hosts, config)]


async def _reach(sample: dict[str, str], hosts: Hosts, config: Config) -> list[Finding]:
    async with Post(config.delivery, config.egress) as post:
        tasks: dict[str, asyncio.Task[Answer | None]] = {}
        try:
            async with asyncio.timeout(_WITHIN), asyncio.TaskGroup() as dialling:
                for origin, url in sample.items():
                    tasks[origin] = dialling.create_task(post.reach(url))
        except TimeoutError:
            pass  # what has not ended says so
    answers = {origin: task.result() for origin, task in tasks.items() if not task.cancelled()}
    return judge(answers, set(tasks) - set(answers), hosts)


def judge(answers: dict[str, Answer | None], late: set[str], hosts: Hosts) -> list[Finding]:
    """By what reaching each came to (None: reached)."""
    ours = {answer.code for answer in answers.values() if isinstance(answer, Fault)}
    failed = {origin: answer for origin, answer in answers.items() if isinstance(answer, Refusal | NoResponse | Response)}
    found = []
    if ours:
        says = f"it is us ({', '.join(sorted(ours))}): no name is answered, or nothing can be reached. "
        found.append(
            fault(Subject.HOSTS, says + "See resolv.conf, routes, a firewall, IPAddressDeny of the unit, [egress] proxy")
        )
    for origin, answer in failed.items():
        code = f"status {answer.status}" if isinstance(answer, Response) else answer.code
        says = f"{origin} cannot be reached: {code}. Webhooks that go there: {some([str(one) for one in hosts[origin]], 5)}"
        found.append(warning(Subject.HOSTS, says))
    if late:
        found.append(unseen(Subject.HOSTS, f"had not answered when time was up: {some(sorted(late))}"))
    reached = len(answers) - len(failed) - sum(isinstance(answer, Fault) for answer in answers.values())
    return found or [ok(Subject.HOSTS, f"{reached} hosts were reached, of {len(hosts)} that webhooks go to")]
