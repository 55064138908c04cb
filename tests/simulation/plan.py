"""What is drawn from a seed before anything happens: the configuration, the webhooks, and the script of what befalls them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta

from bisd.config import DeliveryConfig, RetryConfig
from bisd.health import Limits
from bisd.model import Webhook
from tests.simulation.receivers import SORTS

HOURS = 72
# So much slower daemons tend to their work in a world that lasts so long, or it would be nothing but looks that find nothing.
_LONG_STRIDE = 400.0
_ONE_IN = 60


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@dataclass
class Plan:
    """`script`: at which second which method of World is called with what. `lasts`: until all is well again."""

    long: bool
    stride: float
    lasts: float
    faulty: bool
    daemons: int
    delivery: DeliveryConfig
    retry: RetryConfig
    limits: Limits
    ceiling: int
    most: int
    window: int
    budget: int
    octets: int
    bytes: int
    arrivals: int
    rows: int
    batch: int
    at_once: int
    webhooks: list[Webhook]
    sorts: dict[int, str]
    script: list[tuple[float, str, tuple[object, ...]]] = field(default_factory=list)


def draw(seed: int, long: bool | None = None) -> Plan:
    """The plan of this seed; one in sixty lasts for 72 hours, unless `long` says which."""
    chance = random.Random(seed)
    drawn = chance.randrange(_ONE_IN) == 0
    long = drawn if long is None else long
    lasts = HOURS * 3600.0 if long else chance.choice((chance.uniform(4, 12), chance.uniform(4, 25)))
    webhooks = _webhooks(chance)
    timeout = chance.choice((1.0, 3.0, 15.0))
    plan = Plan(
        long=long,
        stride=_LONG_STRIDE if long else 1.0,
        lasts=lasts,
        faulty=chance.random() < 0.65,
        daemons=chance.choice((1, 1, 2, 2, 3, 4)),
        delivery=DeliveryConfig(
            timeout=_span(timeout), expires_after=timedelta(days=4) if long else _span(chance.choice((3, 20, 90)))
        ),
        retry=RetryConfig() if long else _retry(chance),
        limits=Limits(timedelta(days=3) if long else _span(chance.choice((2, 8, 60))), chance.choice((3, 10, 30))),
        ceiling=chance.choice((1, 2, 4, 8)),
        most=chance.choice((2, 4, 8, 20)),
        window=chance.choice((2, 3, 4, 8, 12)),
        budget=chance.choice((6, 40, 200)),
        octets=chance.choice((300_000, 1 << 20)),
        bytes=chance.choice((10, 10, 10, 40_000)),
        arrivals=chance.choice((3, 10, 1000)),
        rows=chance.choice((1, 5, 1000)),
        batch=chance.choice((2, 20, 500)),
        at_once=chance.choice((1, 3, 500)),
        webhooks=webhooks,
        sorts={webhook.id: chance.choice((*["good"] * 8, *SORTS)) for webhook in webhooks},
    )
    plan.script = sorted([*_application(plan, chance), *_people(plan, chance), *(_faults(plan, chance) if plan.faulty else ())])
    return plan


def _webhooks(chance: random.Random) -> list[Webhook]:
    """Some of them share a shard, most share an account."""
    ids = sorted(chance.sample((1, 2, 3, 5, 8, 33, 65, 66, 67, 129, 193), chance.randint(1, 8)))
    return [
        Webhook(
            id=number,
            account_id=chance.randint(1, 3),
            url=f"https://w{number}.example/",
            api_key="k" * 16,
            previous_api_key=None,
            previous_until=None,
            max_in_flight=chance.choice((None, None, None, 1, 2)),
            live=True,
            ordered=chance.random() < 0.3,
            rate=chance.choice((None, None, None, 2.0, 8.0, 50.0)),
        )
        for number in ids
    ]


def _retry(chance: random.Random) -> RetryConfig:
    by_base = chance.random() < 0.3
    return RetryConfig(
        schedule=[_span(chance.choice((0, 0.1, 0.5, 1, 2, 4))) for _ in range(chance.randint(1, 4))],
        base=_span(chance.choice((0.05, 0.3))) if by_base else None,
        max=_span(5),
        jitter=chance.choice((0.0, 0.1, 1.0)),
        max_attempts=chance.choice((1, 2, 4, 7, 12)),
        max_retry_after=_span(chance.choice((0, 3, 12))),
    )


_Script = list[tuple[float, str, tuple[object, ...]]]


def _application(plan: Plan, chance: random.Random) -> _Script:
    """Transactions: how long each is open, what it inserts for whom, and whether it is rolled back."""
    accounts = sorted({webhook.account_id for webhook in plan.webhooks})
    script: _Script = []
    for _ in range(chance.randint(2, 14)):
        began = chance.uniform(0, plan.lasts * 0.9)
        lasting = chance.choice((0.0, 0.001, 0.01, 0.3, chance.uniform(0, 5)))
        emitted = tuple(chance.choice(accounts) for _ in range(chance.choice((1, 1, 2, 5, 20))))
        script.append((began, "transact", (lasting, emitted, chance.random() < 0.1)))
    return script


def _people(plan: Plan, chance: random.Random) -> _Script:
    """Owners and operators, and receivers that change for the better or worse."""
    acts = ("retry", "cancel", "enable", "disable", "set_webhook", "replay", "send_test", "turn", "turn")
    script: _Script = []
    for _ in range(chance.choice((0, 2, 5, 10))):
        act, number = chance.choice(acts), chance.choice(plan.webhooks).id
        arguments: dict[str, tuple[object, ...]] = {
            "retry": (number, chance.random()),
            "cancel": (number, chance.random()),
            "enable": (number, chance.random() < 0.2),
            "disable": (number,),
            "set_webhook": (number, chance.choice(("rate", "ordered", "max_in_flight")), chance.random()),
            "replay": (number, chance.choice((2.0, 20.0))),
            "send_test": (number, chance.choice((1, 1, 40))),
            "turn": (number, chance.choice(SORTS)),
        }
        script.append((chance.uniform(0, plan.lasts), act, arguments[act]))
    for _ in range(chance.choice((0, 0, 1, 2)) if plan.daemons > 1 else 0):
        script.append((chance.uniform(0.3, 0.8) * plan.lasts, "stop_daemon", (chance.random(), chance.uniform(0.1, 5))))
    return script


def _faults(plan: Plan, chance: random.Random) -> _Script:
    """What nobody wants: at which second, which fault, to which daemon (a share of 1), and for how long."""
    faults = ("crash", "crash", "hang", "silence", "slowness", "cut", "database", "no_network")
    script: _Script = []
    for _ in range(chance.randint(1, 4)):
        lasting = chance.choice((0.01, 0.5, 3.0, 6.0, 9.0, 14.0)) * min(plan.stride, 3600.0)
        script.append((chance.uniform(0.05, 0.95) * plan.lasts, chance.choice(faults), (chance.random(), lasting)))
    return script
