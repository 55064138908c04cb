"""The verdict: what every answer means, and when the next attempt is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisd.config import DeliveryConfig, RetryConfig
from bisd.delivery.verdict import Policy, parse_retry_after
from bisd.model import (
    Answer,
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
    Took,
    Verdict,
    Webhook,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TIMINGS = Timings(None, None, None, None, 1.0)
STEPS = (5, 60, 300)
LONGEST = timedelta(days=3650)
MARGIN = 0.1
WEBHOOK = Webhook(1, 1, "https://example.com/", "k" * 16, None, None, None, True)
EXACT = RetryConfig(schedule=[timedelta(seconds=step) for step in STEPS], jitter=0.0, max_attempts=1000)


def delivery(attempts: int = 0, age: timedelta = timedelta(0)) -> Delivery:
    return Delivery(1, 2, NOW - age, NOW - age, NOW, attempts, "t", b"{}", 2)


def answer(status: int, retry_after: str | None = None) -> Response:
    return Response(status, retry_after, b"", TIMINGS)


def judge(answer: Answer, retry: RetryConfig = EXACT, success: list[int] | None = None, attempts: int = 0) -> Verdict:
    return Policy(DeliveryConfig(success=success or [200]), retry).judge(WEBHOOK, delivery(attempts), answer, NOW)


def wait(retry: RetryConfig, attempts: int, retry_after: str | None = None, *, lifetime: timedelta = LONGEST) -> float:
    """Seconds until the next attempt, after a 500 that ended attempt number `attempts` + 1."""
    verdict = Policy(DeliveryConfig(expires_after=lifetime), retry).judge(
        WEBHOOK, delivery(attempts), answer(500, retry_after), NOW
    )
    assert isinstance(verdict, Retry)
    return (verdict.due_at - NOW).total_seconds()


@pytest.mark.parametrize(
    ("body", "size", "refusal"),
    [
        (b"12345", 5, None),
        (b"123456", 6, Refusal(Code.BODY_TOO_BIG)),
        (b"", 1 << 30, Refusal(Code.BODY_TOO_BIG)),  # so big that it was not even read
        (b"123456", 2, Refusal(Code.BODY_TOO_BIG)),  # changed by hand
        (b"", 2, Refusal(Code.EVENT_GONE)),
    ],
)
def test_what_cannot_be_sent_at_all(body: bytes, size: int, refusal: Refusal | None) -> None:
    """Before anything is signed: no body, or one of more than max_body_bytes, by what the database says or by what came."""
    given = delivery()._replace(body=body, size=size)
    assert refusal == Policy(DeliveryConfig(max_body_bytes=5), RetryConfig()).refusal(given)


@pytest.mark.parametrize("success", [[200], [200, 202], [204]])
def test_only_configured_statuses_are_success(success: list[int]) -> None:
    """Total over every status: what is configured is delivered, everything else is tried again."""
    verdicts = {status: judge(answer(status), success=success) for status in range(1000)}
    assert set(success) == {status for status, verdict in verdicts.items() if verdict == Delivered()}
    again = {verdict for status, verdict in verdicts.items() if status not in success}
    assert {Retry(NOW + timedelta(seconds=5))} == again


@pytest.mark.parametrize("status", [100, 201, 202, 204, 206, 299, 301, 302, 304, 400, 404, 429, 500, 503])
def test_success_is_exactly_200_by_default(status: int) -> None:
    """The documentation says 200 OK: a redirect, a 204 or a 201 is a failure."""
    policy = Policy(DeliveryConfig(), RetryConfig())
    assert Delivered() == policy.judge(WEBHOOK, delivery(), answer(200), NOW)
    assert isinstance(policy.judge(WEBHOOK, delivery(), answer(status), NOW), Retry)


@pytest.mark.parametrize("code", Code)
def test_no_answer_is_tried_again_and_a_refusal_is_not(code: Code) -> None:
    """Total over every code: trouble on the way is tried again, what we may not send is settled as refused."""
    again = Retry(NOW + timedelta(seconds=5))
    assert (again, Refused()) == (judge(NoResponse(code, TIMINGS)), judge(Refusal(code)))


@given(attempts=st.integers(0, 998), schedule=st.lists(st.integers(0, 86400), min_size=1, max_size=20))
def test_schedule_is_asked_with_the_persisted_number(attempts: int, schedule: list[int]) -> None:
    """After attempt n the n-th step is waited, whatever process made the earlier ones; the last step repeats."""
    retry = RetryConfig(schedule=[timedelta(seconds=step) for step in schedule], jitter=0.0, max_attempts=1000)
    assert schedule[min(attempts, len(schedule) - 1)] == wait(retry, attempts)


def test_default_schedule_is_the_configured_list() -> None:
    """The defaults, as documented in config/bisd.toml: ten waits, eleven attempts."""
    retry = RetryConfig(jitter=0.0)
    waits = [wait(retry, attempts) for attempts in range(10)]
    assert [5, 60, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400] == waits
    assert GaveUp() == judge(answer(500), retry, attempts=10)


@given(attempts=st.integers(0, 998), jitter=st.floats(0, 1), step=st.integers(1, 86400))
def test_jitter_only_lengthens_and_by_at_most_its_share(attempts: int, jitter: float, step: int) -> None:
    """What failed together returns apart, never before its step and never more than the share later."""
    retry = RetryConfig(schedule=[timedelta(seconds=step)], jitter=jitter, max_attempts=1000)
    assert 0 <= wait(retry, attempts) - step <= step * jitter + 1e-6


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_jitter_is_a_share_of_the_wait_by_chance(chance: float) -> None:
    """The chance is the one that was given: who gives it knows when the next attempt is."""
    policy = Policy(DeliveryConfig(), replace(EXACT, jitter=0.4), lambda: chance)
    assert Retry(NOW + timedelta(seconds=60 * (1 + 0.4 * chance))) == policy.judge(WEBHOOK, delivery(1), answer(500), NOW)


def test_jitter_spreads() -> None:
    """With jitter, a hundred deliveries that failed in one moment do not come back in one moment."""
    retry = RetryConfig(schedule=[timedelta(hours=1)], jitter=0.5)
    assert len({wait(retry, 0) for _ in range(100)}) > 50


@given(attempts=st.integers(0, 998), base=st.integers(1, 3600), factor=st.floats(1, 100), most=st.integers(3600, 864000))
@example(attempts=998, base=1, factor=100.0, most=3600)
def test_exponential_schedule(attempts: int, base: int, factor: float, most: int) -> None:
    """With base: base * factor ** n, at most max, however large n grows."""
    retry = RetryConfig(base=timedelta(seconds=base), factor=factor, max=timedelta(seconds=most), jitter=0.0, max_attempts=1000)
    try:
        expected = min(base * factor**attempts, most)
    except OverflowError:
        expected = most
    assert pytest.approx(expected, abs=1e-6) == wait(retry, attempts)


@pytest.mark.parametrize("most", [1, 3, 11])
def test_gives_up_after_max_attempts(most: int) -> None:
    """The attempt with the last permitted number is the last."""
    retry = RetryConfig(schedule=[timedelta(seconds=1)], jitter=0.0, max_attempts=most)
    verdicts = [judge(answer(500), retry, attempts=attempts) for attempts in range(most + 1)]
    assert [Retry(NOW + timedelta(seconds=1))] * (most - 1) + [GaveUp()] * 2 == verdicts
    assert Delivered() == judge(answer(200), retry, attempts=most - 1)


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(94, Retry(NOW + timedelta(seconds=5))), (95, Expired()), (99, Expired()), (1000, Expired())],
)
def test_expires_when_the_next_attempt_would_be_too_late(age: int, verdict: Verdict) -> None:
    """A delivery is not retried beyond its lifetime, counted from when it became owed; success is so at any age."""
    policy = Policy(DeliveryConfig(expires_after=timedelta(seconds=100)), EXACT)
    old = delivery(age=timedelta(seconds=age))
    assert (verdict, Delivered()) == (
        policy.judge(WEBHOOK, old, answer(500), NOW),
        policy.judge(WEBHOOK, old, answer(200), NOW),
    )


@pytest.mark.parametrize(("age", "lapsed"), [(0, False), (99.999999, False), (100, True), (1e6, True)])
def test_lapses_before_it_is_sent(age: float, lapsed: bool) -> None:
    """What has outlived its lifetime while it waited is not sent any more."""
    policy = Policy(DeliveryConfig(expires_after=timedelta(seconds=100)), EXACT)
    assert lapsed == policy.lapsed(WEBHOOK, delivery(age=timedelta(seconds=age)), NOW)


@pytest.mark.parametrize(
    ("age", "on", "lapsed"),
    [(150, None, True), (150, -200, True), (150, -100, True), (150, -99.9, False), (150, 0, False), (50, -200, False)],
)
def test_what_was_held_has_its_time_anew(age: float, on: float | None, lapsed: bool) -> None:
    """From when its webhook was last switched on; one that was switched on before it was owed changes nothing."""
    policy = Policy(DeliveryConfig(expires_after=timedelta(seconds=100)), EXACT)
    webhook = WEBHOOK._replace(resumed_at=None if on is None else NOW + timedelta(seconds=on))
    assert lapsed == policy.lapsed(webhook, delivery(age=timedelta(seconds=age)), NOW)


@pytest.mark.parametrize("came", [answer(500), NoResponse(Code.TIMEOUT, TIMINGS), Fault(Code.NETWORK)])
def test_what_was_held_is_retried_within_its_new_time(came: Answer) -> None:
    """Until its time since the switching on is over, for the receiver's failures and for faults of ours."""
    policy = Policy(DeliveryConfig(expires_after=timedelta(seconds=100)), EXACT, lambda: 0.0)
    webhook, old = WEBHOOK._replace(resumed_at=NOW), delivery(age=timedelta(days=30))
    last = policy.judge(webhook, old, came, NOW + timedelta(seconds=69.9))
    assert (Expired(), True) == (policy.judge(WEBHOOK, old, came, NOW), isinstance(last, Retry | Postponed))
    assert Expired() == policy.judge(webhook, old, came, NOW + timedelta(seconds=95))


@pytest.mark.parametrize("success", [[200], [200, 202], [410]])
def test_what_an_answer_says_of_the_receiver(success: list[int]) -> None:
    """Total over every status: what is configured is taken, 410 is gone (unless it is what was asked for), all else is not."""
    policy = Policy(DeliveryConfig(success=success), EXACT)
    said = {status: policy.took(answer(status)) for status in range(1000)}
    assert set(success) == {status for status, took in said.items() if took is Took.YES}
    assert {410} - set(success) == {status for status, took in said.items() if took is Took.GONE}
    assert {Took.NO} == {took for status, took in said.items() if status not in {*success, 410}}


@pytest.mark.parametrize("code", Code)
def test_what_we_could_or_would_not_send_says_nothing(code: Code) -> None:
    """Total over every answer: no answer is the receiver's failure; a refusal, a fault of ours, and no POST at all are not."""
    policy = Policy(DeliveryConfig(), RetryConfig())
    assert [Took.NO, Took.UNKNOWN, Took.OURS, Took.UNKNOWN] == [
        policy.took(NoResponse(code, TIMINGS)),
        policy.took(Refusal(code)),
        policy.took(Fault(code)),
        policy.took(None),
    ]


@given(code=st.sampled_from(Code), attempts=st.integers(0, 10**6), chance=st.floats(0, 1, exclude_max=True))
def test_a_fault_of_ours_puts_off_by_half_a_minute_or_more(code: Code, attempts: int, chance: float) -> None:
    """30 to 60 seconds, apart, whatever number it is and though the schedule has long ended: it counts for nothing."""
    verdict = Policy(DeliveryConfig(), EXACT, lambda: chance).judge(WEBHOOK, delivery(attempts), Fault(code), NOW)
    assert isinstance(verdict, Postponed)
    assert timedelta(seconds=30) <= verdict.due_at - NOW <= timedelta(seconds=60)
    assert delivery(attempts)._replace(due_at=verdict.due_at) == Outcome(delivery(attempts), NOW, Fault(code), verdict).owed()


def test_what_is_put_off_returns_apart() -> None:
    """A hundred that met with the same fault do not come back in one moment."""
    policy = Policy(DeliveryConfig(), RetryConfig())
    verdicts = [policy.judge(WEBHOOK, delivery(), Fault(Code.NETWORK), NOW) for _ in range(100)]
    assert 50 < len({verdict.due_at for verdict in verdicts if isinstance(verdict, Postponed)})


@pytest.mark.parametrize(("age", "expired"), [(0, False), (54, False), (55, True), (1000, True)])
def test_what_is_put_off_beyond_its_time_expires(age: int, expired: bool) -> None:
    """A fault of ours that lasts does not keep deliveries for ever."""
    policy = Policy(DeliveryConfig(expires_after=timedelta(seconds=100)), EXACT, lambda: 0.5)
    verdict = policy.judge(WEBHOOK, delivery(age=timedelta(seconds=age)), Fault(Code.NETWORK), NOW)
    assert (Expired() if expired else Postponed(NOW + timedelta(seconds=45))) == verdict


@given(
    came=st.one_of(
        st.integers(0, 999).map(answer),
        st.builds(answer, st.integers(0, 999), st.text()),
        st.sampled_from(Code).map(lambda code: NoResponse(code, TIMINGS)),
        st.sampled_from(Code).map(Refusal),
        st.sampled_from(Code).map(Fault),
    ),
    age=st.timedeltas(timedelta(0), timedelta(days=30)),
)
@example(came=answer(503, "5"), age=timedelta(0))
@example(came=Fault(Code.INTERNAL), age=timedelta(0))
def test_a_test_is_never_sent_again(came: Answer, age: timedelta) -> None:
    """Whatever came of it, and however old it is: it was sent at once and once."""
    verdict = Policy(DeliveryConfig(), EXACT).judge(WEBHOOK, delivery(age=age)._replace(test=True), came, NOW)
    expected: dict[type, set[Verdict]] = {
        Response: {Delivered(), GaveUp()},
        NoResponse: {GaveUp()},
        Refusal: {Refused()},
        Fault: {GaveUp()},
    }
    assert verdict in expected[type(came)]
    assert Outcome(delivery(), NOW, came, verdict).owed() is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        ("Thursday, 01-Jan-26 12:01:30 GMT", 90),
        # less than the schedule's step: never shorter
        ("0", 5),
        ("1", 5),
        (format_datetime(NOW + timedelta(seconds=1), usegmt=True), 5),
        # in the past, or nothing that RFC 9110 knows: passed over
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 5),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 5),
        ("Thu, 01 Jan 2026 12:01:30", 5),
        ("-1", 5),
        ("-10000000000", 5),
        ("+120", 5),
        ("1e3", 5),
        ("1.5", 5),
        ("120 seconds", 5),
        ("soon", 5),
        ("", 5),
        ("nan", 5),
        ("inf", 5),
        ("Infinity", 5),
        ("١٢٠", 5),
        ("Thu, 99 Xxx 2026 99:99:99 GMT", 5),
        ("Thu, 01 Jan 99999 12:00:00 GMT", 5),
        ("Thu, 01 Jan 2026 12:00:00 +9999", 5),
        ("9" * 101, 5),
        # more than max_retry_after: at most that
        ("3601", 3600),
        (str(10**12), 3600),
        ("9" * 100, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
def test_retry_after(text: str, seconds: int) -> None:
    """Seconds or a date move the next attempt later, by max_retry_after at most, never earlier; else nothing. Who asked for
    time gets a tenth of a second more, for the clocks."""
    retry = RetryConfig(schedule=[timedelta(seconds=5)], jitter=0.0, max_retry_after=timedelta(hours=1), max_attempts=1000)
    assert (seconds if seconds == 5 else seconds + MARGIN) == wait(retry, 0, text)


@given(text=st.text(), attempts=st.integers(0, 998))
@example(text="86400", attempts=0)
@example(text="Fri, 31 Dec 9999 23:59:59 GMT", attempts=0)
def test_retry_after_stays_within_bounds(text: str, attempts: int) -> None:
    """Whatever the header says: not before the schedule's step, and not after the longer of both bounds."""
    retry = RetryConfig(schedule=[timedelta(minutes=1)], jitter=0.0, max_retry_after=timedelta(hours=1), max_attempts=1000)
    assert 60 <= wait(retry, attempts, text) <= 3600 + MARGIN


_DATE_PARTS = st.sampled_from(
    [
        "Thu",
        ",",
        "01",
        "Jan",
        "2026",
        "12:00:00",
        "GMT",
        "+0000",
        "-9999",
        "+99999999999",
        "EST",
        ":",
        " ",
        "-",
        "/",
        ".",
    ]
)


@given(text=st.one_of(st.text(), st.lists(_DATE_PARTS | st.integers().map(str), max_size=12).map(" ".join)))
@example(text="Sat, 01 Jan 0001 00:00:00 +2359")
@example(text="Fri, 31 Dec 9999 23:59:59 -2359")
@example(text="Thu, 01 Jan 2026 12:00:00 " + "9" * 400)
@example(text="1" * 5000)
def test_parsing_retry_after_never_raises(text: str) -> None:
    """A receiver writes what it likes: it asks for a time between nothing and ten years, or for none."""
    asked = parse_retry_after(text, NOW)
    assert asked is None or timedelta(0) <= asked <= LONGEST


@given(seconds=st.integers(0, 10**20))
def test_retry_after_seconds_are_taken_as_they_are(seconds: int) -> None:
    """Up to ten years; longer is ten years."""
    assert min(timedelta(seconds=min(seconds, 10**10)), LONGEST) == parse_retry_after(str(seconds), NOW)


@given(seconds=st.integers(1, 86400 * 3000))
def test_retry_after_dates_count_from_now(seconds: int) -> None:
    """An HTTP date is as long as it is away from the database's clock."""
    text = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert timedelta(seconds=seconds) == parse_retry_after(text, NOW)


def test_a_date_that_is_now_asks_for_nothing() -> None:
    """Nor does one that has passed: the schedule alone says when, without the margin of who was asked to wait."""
    assert None is parse_retry_after(format_datetime(NOW, usegmt=True), NOW)
