"""arXiv 2002.03432, version 1: F1 and exact match after fine-tuning on SQuAD.

- ``finetune_qa-<scale>``: F1 beside exact match, a row an optimizer, published means hollow.
"""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from reltrust.records.artifacts import read_published
from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe
from reltrust.reporting.style import Styles, headline

CLOSE, NEAR = 0.5, 2.0  # points of F1 between ours and the published mean: reproduced, and partly

F1 = Comparison(Measure("f1", "F1", best="max", diverged=0.0, ties="train_loss", bounds=(0, 100)), x="lr", tuned=None)
EXACT = Comparison(
    Measure("exact_match", "exact match", best="max", diverged=0.0, ties="train_loss", bounds=(0, 100)),
    x="lr",
    tuned=None,
)

PUBLISHED = read_published(Path(__file__).with_name("published.csv")).assign(status="finished", seed=0)
PUBLISHED["arm"] = PUBLISHED["optimizer"]
ROWS = PUBLISHED.to_dict("records")
LABELS = {"fromage": "Fromage", "sgd": "SGD", "adam": "Adam"}


# --- claims ----------------------------------------------------------------------------------------------------------


def mean_of(ours: Selection, arm: str) -> tuple[float, int] | None:
    """At the published learning rate: the mean, and over how many seeds."""
    lr = float(PUBLISHED.loc[PUBLISHED["arm"] == arm, "lr"].iloc[0])
    cells = describe(ours)
    found = cells[(cells["arm"] == arm) & (cells["lr"] == lr)]
    return None if found.empty else (float(found["mean"].iloc[0]), int(found["n"].iloc[0]))


def judge_value(arm: str, published: float, ours: Selection) -> tuple[str, Verdict]:
    """Whether the F1 at the published learning rate is the published one.

    reproduced: the mean is within 0.5 points of it; partly: within 2; not reproduced: further away; not run: no run.
    """
    if (found := mean_of(ours, arm)) is None:
        return "-", Verdict.NOT_RUN
    away = abs(found[0] - published)
    verdict = Verdict.REPRODUCED if away <= CLOSE else Verdict.PARTLY if away <= NEAR else Verdict.NOT_REPRODUCED
    return f"{found[0]:.2f} (n={found[1]})", verdict


def judge_competitive(ours: Selection) -> tuple[str, Verdict]:
    """Whether Fromage fine-tunes as well as the others, or better.

    reproduced: its mean F1 is at least that of SGD and of Adam less 0.5 points, each at its published learning rate;
    not reproduced: it is not; not run: one of the three is missing.
    """
    found = {arm: mean_of(ours, arm) for arm in LABELS}
    if None in found.values():
        return "-", Verdict.NOT_RUN
    means = {arm: one[0] for arm, one in found.items() if one is not None}
    text = ", ".join(f"{LABELS[arm]} {mean:.2f}" for arm, mean in means.items())
    fits = means["fromage"] >= max(means["sgd"], means["adam"]) - CLOSE
    return text, Verdict.REPRODUCED if fits else Verdict.NOT_REPRODUCED


# --- the figure ------------------------------------------------------------------------------------------------------


def draw(ours: Selection, exact: Selection, styles: Styles) -> Any:
    """F1 and exact match in 0..100: a large marker for the mean, small ones for seeds, hollow ones as published."""
    cells = ours.best[["arm", "lr"]].drop_duplicates().sort_values(["arm", "lr"], ascending=False)
    figure, panels = plt.subplots(1, 2, figsize=(8, 1.3 + 0.45 * len(cells)), sharey=True)
    names = [f"{styles.label(arm)} {lr:g}" for arm, lr in cells.itertuples(index=False)]
    for axes, selection in zip(panels, (ours, exact), strict=True):
        column = selection.comparison.measure.column
        for place, (arm, lr) in enumerate(cells.itertuples(index=False)):
            own = selection.best[(selection.best["arm"] == arm) & (selection.best["lr"] == lr)]["value"]
            look = styles.line(arm) | {"linestyle": "none"}
            axes.plot(own, [place] * len(own), **(look | {"markersize": 3}), alpha=0.6)
            axes.plot(own.mean(), place, **look)
            theirs = PUBLISHED[(PUBLISHED["arm"] == arm) & (PUBLISHED["lr"] == lr)]
            if ours.scale == "paper" and not theirs.empty:
                axes.plot(theirs[column], [place], **(look | {"markerfacecolor": "none", "markersize": 9}))
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set(xlabel=selection.comparison.measure.label, ylim=(-0.6, len(names) - 0.4))
    first = ours.runs.iloc[0]
    encoder = first["encoder"] if isinstance(first["encoder"], str) else "a small random encoder"
    questions = first["questions"] if isinstance(first["questions"], str) else "made-up questions"
    headline(
        figure,
        f"{ours.scale}: {encoder}, {questions}, {first['steps']:.0f} steps of batch {first['batch_size']:.0f}",
    )
    return figure


FINDING = "Fromage fine-tunes a transformer of more than 1e8 parameters on SQuAD as well as SGD and Adam"

REPORT = Report(
    title="Fromage, version 1: SQuAD",
    figures=(Figure("", F1, draw, also=(EXACT,)),),
    claims=(
        *(
            Claim(
                f"F1 of {LABELS[arm]} on SQuAD at {lr:g}",
                F1,
                ("paper",),
                f"{value:.2f}",
                partial(judge_value, arm, value),
                finding=FINDING,
                label=f"{LABELS[arm]} {lr:g}, F1",
                arms=(arm,),
            )
            for arm, lr, value in ((str(one["arm"]), float(one["lr"]), float(one["f1"])) for one in ROWS)
        ),
        Claim(
            "Fromage fine-tunes as well as SGD and Adam, or better",
            F1,
            ("paper",),
            "87.31, 86.85, 86.58",
            judge_competitive,
            finding=FINDING,
            label="order",
            arms=tuple(LABELS),
        ),
    ),
    cost={
        "paper": (
            "make reproduce-finetune-qa SCALE=paper SEEDS=3 LAUNCHER=serial",
            "9 runs of 14,000 steps: a GPU, weights and questions",
        ),
    },
    published={"paper": PUBLISHED},
)
