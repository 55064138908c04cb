"""How the pages show what they show: texts in one place, values as people read them, charts that add up."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from html import unescape

from hypothesis import given
from hypothesis import strategies as some

from bisd.admin.pages import charts, shown
from bisd.admin.pages.key import LANGUAGES, SAMPLES, samples
from bisd.admin.pages.rendering import TEMPLATES
from bisd.admin.pages.texts import TEXTS
from bisd.deliveries import STATES
from bisd.model import Code
from tests.test_docs import README, blocks

SINCE, STEP = datetime(2026, 3, 1, tzinfo=UTC), timedelta(minutes=1)
MILLISECONDS = some.none() | some.floats(0, 60_000)


def test_templates_hold_no_text_of_their_own() -> None:
    """Every word of a page stands in texts.py: what is outside of tags and braces has no letters, nor have the labels."""
    for template in TEMPLATES.glob("*.html"):
        text = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}|<!doctype html>", "", template.read_text(encoding="utf-8"), flags=re.S)
        assert [] == re.findall(r"[^\W\d_]{2,}", re.sub(r"<[^>]*>", " ", text).replace("evt_", "")), template
        labels = re.findall(r'(?:aria-label|title|alt)="([^"]*)"', text)
        assert {""} >= {label.strip() for label in labels}, template


def test_every_text_is_used() -> None:
    """And every one that a template or a module names is there, which reading a page would tell."""
    sources = "".join(
        path.read_text(encoding="utf-8") for path in TEMPLATES.parent.rglob("*") if path.suffix in (".html", ".py")
    )
    composed = re.compile(r"(state|tone|code|done|span|series|phase|topic|setting|rotate|check|webhook|refused|login)\.")
    assert [] == [
        key
        for key in TEXTS
        if f'"{key}"' not in sources.replace("'", '"').replace(f'    "{key}":', "") and not composed.match(key)
    ]


def test_every_state_and_every_code_has_a_word() -> None:
    """What the database can say of a delivery, an attempt or a webhook is said in words, and states have a look."""
    verdicts = ("delivered", "retry", "postponed", "failed", "expired", "refused", "cancelled")
    webhooks = ("well", "failing", "parked", "off", "deactivated", "not_in_plan")
    for word in {*STATES, *verdicts, *webhooks}:
        assert {f"state.{word}", f"tone.{word}"} <= TEXTS.keys()
    assert {f"code.{code}" for code in Code} <= TEXTS.keys()


@given(some.text())
def test_whatever_somebody_wrote_is_shown_as_it_is_or_marked(text: str) -> None:
    """Nothing of it is markup, nothing of it is left out, and what could not be seen is named by its number."""
    told = str(shown.visible(text))
    marked = re.sub(r'<span class="hidden-character">U\+([0-9A-F]{4,6})</span>', lambda match: chr(int(match[1], 16)), told)
    assert text == unescape(marked)
    bare = re.sub(r'<span class="hidden-character">[^<]*</span>', "", told)
    assert [] == re.findall(r"[<>\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", bare)


@given(some.text())
def test_in_attributes_nothing_is_hidden_either(text: str) -> None:
    """There it is named in brackets."""
    assert all(one.isprintable() or one.isspace() for one in shown.plain(text))


@given(some.binary())
def test_any_answer_can_be_shown(answer: bytes) -> None:
    """A receiver may answer any octets."""
    assert str(shown.visible_lines(shown.octets(answer))).isprintable() or answer


@given(some.recursive(some.none() | some.booleans() | some.text(), some.lists, max_leaves=20))
def test_a_body_is_indented_and_nothing_else(value: object) -> None:
    """It is the same JSON; and what is none is left as it is."""
    text = json.dumps(value)
    assert value == json.loads(shown.indented(text))
    assert text + "]" == shown.indented(text + "]")


def test_a_page_costs_little_whatever_it_shows() -> None:
    """A page is made beside the loop that delivers: a body that would become two hundred megabytes when it is indented is shown
    as it came, and of what is long, or made of what cannot be seen, a part."""
    deep = "[" * 800 + "1," * 10_000 + "1" + "]" * 800
    assert deep == shown.indented(deep)
    for text in (deep * 50, "\u200b" * 350_000):
        began = time.process_time()
        assert len(shown.visible_lines(shown.indented(text))) < 3_000_000
        assert time.process_time() - began < 1


def test_times_are_utc_without_script_and_exact_where_somebody_points() -> None:
    """In whatever zone they are given."""
    at = datetime(2026, 3, 1, 1, 2, 3, 456_000, tzinfo=UTC).astimezone(None)
    told = str(shown.moment(at))
    assert (True, True) == ("01 Mar 01:02:03 UTC<" in told, 'title="2026-03-01 01:02:03.456 UTC"' in told)
    note = str(shown.note("off since 2026-03-01T01:02:03Z: <b>"))
    assert (True, True) == ('<time datetime="2026-03-01T01:02:03+00:00"' in note, "&lt;b&gt;" in note)


def test_durations_and_shares_are_told_as_people_do() -> None:
    """By their two largest units; and what is not all is not rounded to it."""
    assert ["0 s", "59 s", "1 min", "2 d 3 h"] == [shown.lasting(seconds) for seconds in (0, 59, 60, 183_700)]
    assert ["-", "100 %", "99.9 %", "0 %"] == [shown.percent(part) for part in (None, 1.0, 0.99999, 0.0)]
    assert ["-", "1.2 ms", "12 ms", "1.20 s"] == [shown.milliseconds(value) for value in (None, 1.2, 12.3, 1200)]


@given(
    some.lists(
        some.tuples(some.integers(0, 59), some.integers(0, 10**9), some.integers(0, 10**9)), unique_by=lambda row: row[0]
    )
)
def test_columns_stand_for_their_numbers(rows: list[tuple[int, int, int]]) -> None:
    """Each at its step, as high as its share of the highest one; none leaves the box."""
    found = [{"at": SINCE + place * STEP, "delivered": one, "failed": two} for place, one, two in rows]
    course = charts.steps(found, SINCE, STEP, 60)
    shapes, top = charts.columns(course, {"delivered": ["delivered"], "failed": ["failed"]})
    assert max([one + two for _, one, two in rows] + [1]) == top
    for shape in shapes:
        row = next(row for row in rows if row[0] == int(shape.x // charts.WIDTH))
        assert abs(shape.height - (row[1] if shape.series == "delivered" else row[2]) / top * 100) < 0.01
        assert -0.01 <= shape.y <= shape.y + shape.height <= 100.02


@given(some.tuples(*[MILLISECONDS] * 4), some.floats(0.1, 60_000))
def test_the_phases_of_an_attempt_are_its_time(parts: tuple[float | None, ...], total: float) -> None:
    """None is negative, and the longest attempt is as wide as the chart, unless its parts say more than its whole."""
    names = ("dns_ms", "connect_ms", "tls_ms", "first_byte_ms")
    attempt = dict(zip(names, parts, strict=True)) | {"total_ms": total}
    phases = charts.durations(attempt)
    assert min(phases.values()) >= 0
    assert sum(phases.values()) >= total - 0.001
    shapes = charts.phases(attempt, sum(phases.values()))
    assert abs(sum(shape.width for shape in shapes) - 100) < 0.1


def test_the_code_on_the_page_is_that_of_the_readme() -> None:
    """Which is run against real requests; each language once."""
    told = {text.strip() for language in ("python", "ruby", "js", "php", "go") for text in blocks(README, language)}
    assert [] == [sample.language for sample in samples() if sample.code not in told]
    assert {f"{language.lower()}.txt" for language in LANGUAGES} == {path.name for path in SAMPLES.iterdir()}
