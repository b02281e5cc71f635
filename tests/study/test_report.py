"""The report's files, of results that are known."""

from __future__ import annotations

import csv
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from adapter_lab.study import report
from adapter_lab.study.analysis.results import Mean, Results
from adapter_lab.study.record.state import Decision
from adapter_lab.study.report.svg import Axis, Chart, Series, nice_ticks, spread_labels
from adapter_lab.study.spec.definition import Budget
from adapter_lab.study.spec.measured import ScorePrompt
from tests.support.study_results import NO_CURVE, draw_pictures, make_results, replaced, summarised

NAMES = ["LoRA", "LoRA+TE", "<LoHa> & co", "broken"]
PROMPTS = [
    ScorePrompt("solo, vexa", 7, "vexa"),
    ScorePrompt("solo, vexa, night", 8, "vexa"),
    ScorePrompt("duo", 9, "both"),
]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Four variants, of which one failed and one was dropped, with images and scores."""

    def measure(name: str, point: int, seed: int, picture: int) -> dict[str, float]:
        noise = random.Random(f"{name}{point}{seed}{picture}").gauss(0, 0.01)
        return {"fidelity": 0.3 + 0.1 * point - 0.05 * NAMES.index(name) + noise, "drift": 0.1 + noise}

    found = make_results(tmp_path, NAMES, measure, losses=lambda name, point, seed: 0.2 - 0.01 * point + 0.001 * seed)
    broken = [replace(training, points=[], curve=NO_CURVE) for training in found.variant("broken").trainings]
    found = replaced(found, "broken", trainings=broken, points=[], state="failed", why="Out of memory; use dim 8.",
                     seconds_per_step=None, peak_bytes=None, file_bytes=None)  # fmt: skip
    dropped = found.variant("LoRA+TE")
    cut = summarised(replace(dropped, trainings=[replace(t, points=t.points[:2]) for t in dropped.trainings]))
    found = replaced(found, "LoRA+TE", trainings=cut.trainings, points=cut.points, state="dropped", why="Behind.")
    found = replace(found, base={("fidelity", ""): Mean(0.1, 0.01)}, decisions=[Decision("LoRA+TE", 2, 1e9, "Behind.")])
    draw_pictures(found, PROMPTS)
    return found


class Tags(HTMLParser):
    """All tags and attributes of a page; void ones apart, every tag must be closed in order."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_script_and_nothing_from_elsewhere(results: Results, tmp_path: Path) -> None:
    page = report.write(results, tmp_path)[0].read_text(encoding="utf-8")
    tags = Tags(page).found
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or (value or "").startswith(("data:image/webp;base64,", "#"))
    assert not re.search(r"url\(|@import|https?://", page)
    assert "prefers-color-scheme: dark" in page


def test_links_inside_the_page_lead_somewhere(results: Results, tmp_path: Path) -> None:
    tags = Tags(report.write(results, tmp_path)[0].read_text(encoding="utf-8")).found
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert {(a["href"] or "")[1:] for tag, a in tags if tag == "a"} <= ids


def test_names_are_escaped(results: Results, tmp_path: Path) -> None:
    page = report.write(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "<LoHa>" not in page and "&lt;LoHa&gt; &amp; co" in page


def test_every_cell_has_a_picture_or_says_why_not(results: Results, tmp_path: Path) -> None:
    page = report.write(results, tmp_path)[0].read_text(encoding="utf-8")
    images = [attributes["alt"] for tag, attributes in Tags(page).found if tag == "img"]
    # Two groups of prompts; base and 3 points for two variants, base and 2 for the dropped, base for the failed.
    assert len(images) == 2 * (4 + 4 + 3 + 1)
    cells = re.findall(r'<div class="none">(.*?)</div>', page)
    assert sorted(cells) == sorted(2 * (["dropped"] + 3 * ["failed"]))


def test_failures_drops_and_cautions_are_on_the_page_and_in_markdown(results: Results, tmp_path: Path) -> None:
    page, text = (path.read_text(encoding="utf-8") for path in report.write(results, tmp_path)[:2])
    for wanted in ("Out of memory; use dim 8.", "after checkpoint 2", "Use LoRA at step 300.", "no scorer measured"):
        assert wanted in page
        assert wanted in text


def test_the_table_has_what_was_measured(results: Results, tmp_path: Path) -> None:
    text = report.write(results, tmp_path)[1].read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line] for line in lines]
    heads, rows = table[0], {row[0]: row for row in table[2:]}
    assert rows["LoRA"][heads.index("peak MiB")] == "100"
    assert rows["LoRA"][heads.index("steps")] == "300"
    assert rows["LoRA+TE"][heads.index("State")] == "dropped"
    assert rows["LoRA+TE"][heads.index("steps")] == "200"
    assert rows["broken"][heads.index("s/it")] == "–"
    mean = results.variant("LoRA").points[2].scores["fidelity", ""]
    assert rows["LoRA"][heads.index("fidelity")] == f"{mean.value:.3f} ± {mean.error:.3f}"
    assert float(rows["LoRA"][heads.index("val. loss")]) == pytest.approx(0.172)


def test_csv_has_a_line_per_saving_point_and_the_failed_one(results: Results, tmp_path: Path) -> None:
    path = report.write(results, tmp_path)[2]
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["variant"], line["point"]) for line in lines] == [
        *(("LoRA", str(n)) for n in (1, 2, 3)),
        *(("LoRA+TE", str(n)) for n in (1, 2)),
        *(("<LoHa> & co", str(n)) for n in (1, 2, 3)),
        ("broken", ""),
    ]
    chosen = [line for line in lines if line["recommended"] == "1"]
    assert [(line["variant"], line["steps"]) for line in chosen] == [("LoRA", "300.0")]
    summary = results.variant("LoRA").points[2].scores["fidelity", ""]
    assert float(chosen[0]["fidelity"]) == summary.value and float(chosen[0]["fidelity error"]) == summary.error
    assert lines[-1]["why"] == "Out of memory; use dim 8."


def test_charts_are_svg_with_a_line_or_points_per_measured_variant(results: Results, tmp_path: Path) -> None:
    page = report.write(results, tmp_path)[0].read_text(encoding="utf-8")
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    labels = [chart.get("aria-label", "") for chart in charts]
    for wanted in ("Fidelity against drift", "Quality", "Fidelity: likeness", "Training loss", "Validation loss",
                   "Effective learning rate"):  # fmt: skip
        assert any(label.startswith(wanted) for label in labels), wanted
    assert sum(label.startswith("Training loss") for label in labels) == 2  # over minutes and over steps
    pareto = next(chart for chart in charts if (chart.get("aria-label") or "").startswith("Fidelity against"))
    names = [entry.text for entry in pareto.iter("text") if "name" in (entry.get("class") or "")]
    assert sorted(filter(None, names)) == sorted(["LoRA", "LoRA+TE", "<LoHa> & co"])
    assert len([entry for entry in pareto.iter("path") if "bar" in (entry.get("class") or "")]) == 2 * (3 + 2 + 3)


@pytest.mark.parametrize(
    ("unit", "amount", "words"),
    [
        ("minutes", 5 / 12, "25 seconds"),
        ("minutes", 1.0, "1 minute"),
        ("minutes", 1.25, "1.25 minutes"),
        ("minutes", 1440.0, "1,440 minutes"),
        ("steps", 1.0, "1 step"),
        ("steps", 4000.0, "4,000 steps"),
        ("images", 96_000.0, "96,000 images"),
        ("images", 1_234_567.0, "1,234,567 images"),
    ],
)
def test_amounts_are_said_as_a_person_would(unit: str, amount: float, words: str) -> None:
    assert Budget(unit, amount).in_words(amount) == words


def test_a_study_without_anything_still_has_a_report(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a"], lambda *_: {})
    queued = {"points": [], "curve": NO_CURVE, "final_loss": None, "state": "queued"}
    trainings = [replace(training, **queued) for training in results.variant("a").trainings]
    results = replaced(results, "a", trainings=trainings, points=[], state="queued", seconds_per_step=None,
                       peak_bytes=None, file_bytes=None)  # fmt: skip
    written = report.write(replace(results, state="queued"), tmp_path)
    assert [path.name for path in written] == ["report.html", "report.md", "report.csv"]
    page = written[0].read_text(encoding="utf-8")
    Tags(page)
    assert "Nothing is recommended yet: 0 of 3 trainings have ended." in page and "<svg" not in page


def test_many_saving_points_show_ten_columns_with_the_last(tmp_path: Path) -> None:
    results = make_results(tmp_path, ["a"], lambda *_: {"fidelity": 0.5}, points=37, seeds=(1,))
    draw_pictures(results, PROMPTS[:1], size=16)
    page = report.write(results, tmp_path)[0].read_text(encoding="utf-8")
    captions = re.findall(r"<small>step ([\d,]+)</small>", page)
    assert len(captions) == 10 and captions[-1] == "3,700"


def test_a_report_replaces_the_one_before(results: Results, tmp_path: Path) -> None:
    first = report.write(results, tmp_path)
    before = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in report.write(results, tmp_path)] == before
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 3, [-3, -2, -1, 0, 1, 2, 3]), (0.18, 0.31, [0.2, 0.25, 0.3])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert set(ticks) <= set(nice_ticks(low, high))


def test_labels_keep_their_order_and_distance() -> None:
    found = spread_labels([50, 52, 51, 300], 13, 10, 310)
    assert found[0] < found[2] < found[1] < found[3]
    assert min(b - a for a, b in zip(sorted(found), sorted(found)[1:])) >= 13 - 1e-9
    crowded = spread_labels([100] * 50, 13, 10, 310)
    assert min(crowded) >= 10 and max(crowded) <= 310 + 1e-9


def test_an_axis_takes_equal_empty_and_logarithmic_values() -> None:
    assert Axis.of([2.0, 2.0], 0, 100).place(2.0) == pytest.approx(50, abs=50)
    assert Axis.of([], 0, 100).ticks
    axis = Axis.of([1e-6, 1e-2], 0, 100, logarithmic=True)
    assert axis.place(1e-4) == pytest.approx(50, abs=1) and 1e-4 in axis.ticks
    assert axis.place(0) == pytest.approx(0)  # nothing is drawn outside


def test_marks_say_their_values_when_pointed_at() -> None:
    svg = Chart("t", "x", "y", [Series("a<b", 0, [1.0, 2.0], [0.5, 0.7], [0.1, None])]).svg()
    root = ElementTree.fromstring(svg)
    assert [title.text for title in root.iter("title")] == ["a<b: 0.5 at 1", "a<b: 0.7 at 2"]
