"""The report: what stands on the page, and how a real browser shows it."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image

import command_lines
from reltrust.reporting import page, pages, report
from reltrust.reporting.page import embedded
from runs import ROOT

pytestmark = [
    pytest.mark.xdist_group("report"),  # one process has the page and the browser
    pytest.mark.timeout(900),  # the first one draws all figures
]
SCRIPT = str(ROOT / "scripts" / "report.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of this checkout with their page, as deep below its top as they are there."""
    folder = tmp_path_factory.mktemp("results") / "results"
    for part in ("summaries", "pictures"):
        shutil.copytree(ROOT / "results" / part, folder / part)
    answer = command_lines.answer([SCRIPT, "--results", str(folder)])
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == str(folder / "report" / "index.html")
    return folder


@pytest.fixture(scope="module")
def html(results: Path) -> str:
    return (results / "report" / "index.html").read_text(encoding="utf-8")


FEW = ("cifar_gan", "madam_weights", "transformer_lm")


@pytest.fixture
def few(results: Path, tmp_path: Path) -> Path:
    """Tables of three experiments, which a page is made of in a second; without figures."""
    (tmp_path / "summaries").mkdir()
    for name in FEW:
        for path in (results / "summaries").glob(f"{name}*.csv"):
            shutil.copy(path, tmp_path / "summaries")
    return tmp_path


def written(results: Path) -> str:
    found = {name: list(report.evaluate(results, name, report.load_report(name))) for name in FEW}
    return page.write(results, [page.chapter(results, *one) for one in found.items()]).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag with its attributes; raises where one is closed that is not open."""

    VOID = ("meta", "link", "img", "input", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def tags(html: str) -> Tags:
    return Tags(html)


# --- what stands there -----------------------------------------------------------------------------------------------


def test_every_tag_that_is_opened_is_closed(tags: Tags) -> None:
    assert tags.open == []


def test_the_page_is_one_file_of_less_than_five_megabytes_that_loads_nothing(tags: Tags, results: Path) -> None:
    assert (results / "report" / "index.html").stat().st_size < 5e6
    assert [path.name for path in (results / "report").iterdir()] == ["index.html"]
    loaded = [own.get("src") or "" for tag, own in tags.found if tag in ("img", "script", "iframe") and "src" in own]
    loaded += [own["href"] or "" for tag, own in tags.found if tag == "link"]
    assert loaded
    assert all(one.startswith("data:") for one in loaded)


def test_the_same_tables_make_the_same_page(few: Path) -> None:
    assert written(few) == written(few)


def test_nothing_of_it_is_of_the_machine(html: str, results: Path) -> None:
    assert str(ROOT) not in re.sub(r'href="[^"]*"', "", html)
    assert str(results) not in html


def test_every_claim_stands_there_at_every_scale_with_its_verdict(tags: Tags, html: str) -> None:
    stated = [
        (name, scale, claim)
        for name in report.names()
        for one in [report.load_report(name)]
        for scale in one.cost
        for claim in one.claims_of(scale)
    ]
    bodies = [own["data-verdict"] for tag, own in tags.found if tag == "tbody" and "data-verdict" in own]
    assert len(bodies) == len(stated) > 100
    counted = {verdict: bodies.count(verdict) for verdict in set(bodies)}
    for verdict, count in counted.items():
        assert re.search(rf">{verdict}</span> {count}</li>", html)


def test_every_link_leads_somewhere(tags: Tags) -> None:
    """From where the page lies in a checkout: in the results folder at its top."""
    here, ids = ROOT / "results" / "report", {own["id"] for _, own in tags.found if "id" in own}
    targets = {own["href"] or "" for tag, own in tags.found if tag == "a"}
    assert len(targets) > 30
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in ids
        elif "://" not in target:
            # Links to pages of the repository are made for where the test keeps its results.
            name = unquote(target.partition("#")[0])
            found = (here / name).resolve() if name.startswith(("../summaries", "../figures")) else None
            assert found is None or found.exists(), target


def test_links_to_the_repository_are_relative_to_the_page(tags: Tags, results: Path) -> None:
    targets = [own["href"] or "" for tag, own in tags.found if tag == "a"]
    ours = [one for one in targets if "/experiments/" in one or "/docs/" in one]
    assert len(ours) > 10
    for target in ours:
        assert (results / "report" / target.partition("#")[0]).exists(), target


def test_a_verdict_opens_to_the_rows_of_the_summary_that_the_selection_used(html: str) -> None:
    name = "mlp_depth"
    (found,) = report.evaluate(ROOT / "results", name, report.load_report(name), lambda scale: scale == "quick")
    runs = found.main.best
    expected = set(runs.loc[runs["arm"].isin(["fromage", "adam"]), "run"])
    body = re.search(
        r"<tbody[^>]*>(?:(?!</tbody>\s*<tbody role).)*?Fromage trains deeper perceptrons than Adam</td>"
        r"(?:(?!<tbody role).)*?data-label=\"scale\">quick<.*?</details>",
        html,
        flags=re.DOTALL,
    )
    assert body
    assert len(expected) == 48
    shown = re.findall(r"<td>((?:fromage|adam|sgd_momentum)/[^<]+)</td>", body[0][body[0].rindex("<details>") :])
    assert set(shown) == expected
    assert len(shown) == len(expected)


def test_a_missing_figure_and_a_missing_table_are_told_and_the_others_stand_there(few: Path) -> None:
    (few / "summaries" / "transformer_lm.csv").unlink()
    text = written(few)
    assert "Not drawn" in text
    chapter = text[text.index('<section id="transformer_lm"') :]
    assert "Nothing was run yet." in chapter[: chapter.index("</section>")]
    assert "0 of 12,928 weights" in text


def test_a_partly_finished_sweep_is_shown_with_what_is_missing(few: Path) -> None:
    path = few / "summaries" / "transformer_lm.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(line for line in lines if "fromage/" not in line and "sgd/width32-layers2-lr1.0-" not in line)
    )
    text = written(few)
    chapter = text[text.index('<section id="transformer_lm"') :]
    assert "Adam" in chapter
    assert re.search(
        r'data-verdict="not run">(?:(?!</tbody>).)*Fromage&#39;s best learning rate', text, flags=re.DOTALL
    )


def test_a_damaged_table_is_named_and_the_others_stand_there(few: Path) -> None:
    path = few / "summaries" / "madam_weights.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:9], lines[9].replace("finished", "finnished"), *lines[10:]]))
    answer = command_lines.answer([SCRIPT, "--results", str(few)])
    assert answer.returncode == 1
    assert f"error: {path}: damaged: line 10: status='finnished': must be finished or diverged" in answer.stderr
    text = (few / "report" / "index.html").read_text(encoding="utf-8")
    assert "Left out: " in text
    assert '<section id="cifar_gan"' in text
    assert '<section id="madam_weights"' not in text


def test_the_page_is_written_where_torch_cannot_be_imported(few: Path) -> None:
    program = "import sys; sys.modules['torch'] = sys.modules['hydra'] = sys.modules['pydantic'] = None\n"
    program += "import runpy; sys.argv[1:] = ['--results', sys.argv[1]]; "
    program += f"sys.path.insert(0, {str(Path(SCRIPT).parent)!r}); runpy.run_path({SCRIPT!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, str(few)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (few / "report" / "index.html").exists()


def test_text_of_tables_is_no_markup(few: Path) -> None:
    path = few / "summaries" / "cifar_gan.csv"
    table = pd.read_csv(path, dtype={"comparison": str})
    table.assign(device="<script>alert(1)</script>").to_csv(path, index=False)
    text = written(few)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text


# --- what is taken from an experiment's page -------------------------------------------------------------------------

PAGE = """# Why?

## Run it

nothing

## Deviations from the authors' code

| theirs | [ours](settings.py) |
|---|---|
| <b>a</b> | `b` |

## What the quick scale shows

More at [the paper](https://example.org/#a), [there](#why).
"""


def test_the_sections_of_deviations_and_limits_are_taken_with_their_links_moved() -> None:
    html = pages.deviations(PAGE, lambda target: f"../{target}")
    assert pages.heading(PAGE) == "Why?"
    assert "nothing" not in html
    assert "Deviations from the authors" in html
    assert '<a href="../settings.py">ours</a>' in html
    assert '<a href="https://example.org/#a">' in html
    assert '<a href="#why">' in html
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "<code>b</code>" in html
    assert pages.deviations("# Nothing", str) == ""


@pytest.mark.parametrize("name", report.names())
def test_every_experiment_states_deviations_choices_or_limits(name: str) -> None:
    text = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    assert len(pages.deviations(text, str)) > 200


def test_a_drawing_is_embedded_in_few_bytes_and_at_most_1400_pixels_wide(tmp_path: Path) -> None:
    Image.new("RGB", (3200, 400), "white").save(tmp_path / "wide.png")
    uri = embedded(tmp_path / "wide.png")
    assert uri is not None
    assert len(uri) < 5000
    assert embedded(tmp_path / "none.png") is None


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (float("nan"), ""), (None, ""), (3, "3"), (0.123456, "0.1235")]
)
def test_a_cell_has_four_digits_and_nothing_where_there_is_nothing(value: Any, text: str) -> None:
    assert page.shown(value) == text


# --- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
WIDTHS = {"phone": 360, "tablet": 820, "desk": 1400}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        # A busy machine is slow, and not wrong.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=200_000)
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any, results: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a window; a request that leaves it, or an error of its script, fails the test."""
    options = {"viewport": {"width": WIDTHS["desk"], "height": 900}} | getattr(request, "param", {})
    context = browser.new_context(**options)
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(200_000)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    opened.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
    opened.goto((results / "report" / "index.html").as_uri())
    yield opened
    context.close()
    assert wrong == []


@in_a_browser
@pytest.mark.parametrize(
    "tab",
    [{"viewport": {"width": width, "height": 800}} for width in WIDTHS.values()],
    indirect=True,
    ids=list(WIDTHS),
)
def test_nothing_is_wider_than_the_window_with_everything_open(tab: Any) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.get_by_label("not run").check()
    assert tab.evaluate("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
    # What is cut or lies on its neighbour is wider than the cell that it is in.
    too_wide = """[...document.querySelectorAll('.claims > tbody > tr:first-child > td > *, .claims > thead th')]
        .filter(one => one.offsetParent && one.getBoundingClientRect().right
            > one.parentElement.getBoundingClientRect().right + 1).map(one => one.textContent)"""
    assert tab.evaluate(too_wide) == []


@in_a_browser
def test_claims_are_sorted_by_a_click_or_by_the_keyboard_and_keep_their_runs(tab: Any) -> None:
    def verdicts() -> list[str]:
        return [
            str(one)
            for one in tab.locator(".claims > tbody").evaluate_all("all => all.map(one => one.dataset.verdict)")
        ]

    head = tab.get_by_role("columnheader", name="verdict")
    order = ["reproduced", "partly", "not reproduced", "not run"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert list(dict.fromkeys(verdicts())) == order
    head.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert list(dict.fromkeys(verdicts())) == order[::-1]
    assert tab.locator(".claims > tbody").evaluate_all("all => all.every(one => one.rows.length === 2)")


@in_a_browser
def test_numbers_are_sorted_as_numbers(tab: Any) -> None:
    table = tab.locator("#provenance table")
    table.get_by_role("button", name="runs").click()
    values = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert values == sorted(values, key=int)
    assert len(set(values)) > 3


@in_a_browser
def test_what_was_not_run_is_shown_when_it_is_asked_for(tab: Any) -> None:
    bodies = tab.locator(".claims > tbody[data-verdict='not run']")
    assert bodies.count() > 10
    assert not bodies.first.is_visible()
    tab.get_by_label("not run").check()
    assert bodies.first.is_visible()


@in_a_browser
def test_a_verdict_opens_to_its_rule_and_its_runs_by_the_keyboard(tab: Any) -> None:
    summary = tab.locator(".claims summary:visible").first
    runs = tab.locator(".claims > tbody:visible").first.locator("table")
    assert not runs.is_visible()
    summary.focus()
    tab.keyboard.press("Enter")
    assert runs.is_visible()
    assert runs.locator("tbody tr").first.is_visible()


@in_a_browser
def test_a_figure_enlarges_and_escape_closes_it_again(tab: Any) -> None:
    button, dialog = tab.locator(".enlarge").first, tab.locator("dialog")
    button.focus()
    tab.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").evaluate("one => one.naturalWidth") > 1000
    assert len(dialog.locator("img").get_attribute("alt")) > 40
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert button.evaluate("one => one === document.activeElement")


@in_a_browser
def test_all_that_can_be_pressed_has_a_name_and_every_image_a_text(tab: Any) -> None:
    assert (
        tab.evaluate("""[...document.querySelectorAll('button, summary, a, input')].filter(one =>
        !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).length""")
        == 0
    )
    assert tab.locator("main img:not([alt])").count() == 0
    assert tab.locator("h1").count() == 1
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert tab.evaluate("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size") == tab.evaluate(
        "document.querySelectorAll('[id]').length"
    )


@in_a_browser
@pytest.mark.parametrize(
    "tab", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_text_stands_out_from_its_ground(tab: Any) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), in both schemes."""
    least = tab.evaluate("""() => {
        const light = text => {
            const parts = text.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
                .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const ground = one => {
            const color = getComputedStyle(one).backgroundColor;
            return /, 0\\)$/.test(color) && one.parentElement ? ground(one.parentElement) : color;
        };
        const ratios = [...document.querySelectorAll('p, td, th, a, .verdict, code, summary, figcaption, h2, label')]
            .filter(one => one.offsetParent).map(one => {
                const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
        return Math.min(...ratios);
    }""")
    assert least >= 4.5
    dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark


@in_a_browser
@pytest.mark.parametrize("tab", [{"java_script_enabled": False}], indirect=True, ids=["no script"])
def test_without_its_script_all_of_the_page_is_there(tab: Any) -> None:
    assert tab.locator(".claims > tbody[data-verdict='not run']").first.is_visible()
    assert not tab.locator(".filter").is_visible()


@in_a_browser
def test_it_prints_the_claims_on_white_without_what_can_be_pressed(tab: Any) -> None:
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.locator("nav").is_visible()
    assert not tab.locator(".filter").is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.locator(".claims > thead").evaluate("one => getComputedStyle(one).display") == "table-header-group"
    assert len(tab.pdf(format="A4")) > 100_000
