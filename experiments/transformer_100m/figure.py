"""arXiv 2002.03432, version 1: Fromage scales up to a language transformer of more than 1e8 parameters.

- ``transformer_100m-quick``: the training loss over the first steps, one line an optimizer;
- ``transformer_100m-gpu``: the lowest validation loss against the learning rate.
"""

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from reltrust.reporting.claims import Claim, Verdict
from reltrust.reporting.learning_rates import draw_learning_rates
from reltrust.reporting.report import Figure, Report
from reltrust.reporting.selection import Comparison, Measure, Selection, describe
from reltrust.reporting.style import Styles, headline

LARGE = 1e8  # parameters: "over 10^8"
NEAR = 1.1  # times AdamW's loss at most is Fromage's, to have scaled up
NONE = 1e3  # nats a token: what a diverged run counts as

TRAIN = Measure("train_loss", "training loss (nats a token)", best="min", diverged=NONE, ties="train_loss")
VALID = Measure(
    "best_valid_loss", "lowest validation loss (nats a token)", best="min", diverged=NONE, ties="train_loss"
)
BEGINNING = Comparison(TRAIN, x="lr", tuned=None)
BY_LR = Comparison(VALID, x="lr", tuned=None)
LABELS = {"fromage": "Fromage", "madam": "Madam", "adamw": "AdamW"}


# --- claims ----------------------------------------------------------------------------------------------------------


def judge_falls(arm: str, ours: Selection) -> tuple[str, Verdict]:
    """Whether the first steps of a model of more than 1e8 parameters train it: a check of the code and the memory, not
    of the claim.

    partly: in every run the mean training loss of the last window is below that of the first, none has diverged, and
    the model has more than 1e8 parameters; not reproduced: a run diverged, or its loss did not fall; not run: no run,
    or a smaller model. More than partly it cannot be: a few steps do not show how well an optimizer trains.
    """
    runs = ours.runs[ours.runs["arm"] == arm]
    if runs.empty:
        return "-", Verdict.NOT_RUN
    if (runs["status"] != "finished").any():
        return f"{(runs['status'] != 'finished').sum()} of {len(runs)} diverged", Verdict.NOT_REPRODUCED
    if (runs["parameters"] <= LARGE).any():
        return "-", Verdict.NOT_RUN
    curves = ours.curves[ours.curves["arm"] == arm].sort_values("step").groupby("run")["train_loss"]
    first, last = curves.first(), curves.last()
    text = f"{first.mean():.3g} to {last.mean():.3g} nats in {runs['steps'].iloc[0]:.0f} steps (n={len(runs)})"
    return text, Verdict.PARTLY if (last < first).all() else Verdict.NOT_REPRODUCED


def judge_scales_up(ours: Selection) -> tuple[str, Verdict]:
    """Whether Fromage trains more than 1e8 parameters about as well as AdamW, each at its best learning rate.

    reproduced: the lowest mean validation loss of Fromage is at most 1.1 times AdamW's; partly: it is below 0.8 times
    that of guessing by the vocabulary's size; not reproduced: neither; not run: one of the two has fewer than three
    learning rates, or the model is smaller.
    """
    cells = describe(ours)
    best = {}
    for arm in ("fromage", "adamw"):
        own = cells[cells["arm"] == arm]
        if len(own) < 3 or (ours.runs["parameters"].dropna() <= LARGE).any():
            return "-", Verdict.NOT_RUN
        best[arm] = own.sort_values("mean").iloc[0]
    fromage, adamw = (float(best[arm]["mean"]) for arm in ("fromage", "adamw"))
    text = f"Fromage {best['fromage']['lr']:g}: {fromage:.3f}; AdamW {best['adamw']['lr']:g}: {adamw:.3f} nats a token"
    text += f" (n={int(best['fromage']['n'])})"
    if fromage <= NEAR * adamw:
        return text, Verdict.REPRODUCED
    guessing = 9.7  # ln of a vocabulary of 16,384
    return text, Verdict.PARTLY if fromage < 0.8 * guessing else Verdict.NOT_REPRODUCED


# --- figures ---------------------------------------------------------------------------------------------------------


def title(selection: Selection) -> str:
    first, seeds = selection.runs.iloc[0], selection.runs["seed"].nunique()
    size = selection.runs["parameters"].max()
    return (
        f"{selection.scale}: {size / 1e6:,.1f} million parameters, {first['data']}, {first['steps']:.0f} steps of "
        f"{first['batch_size']:.0f} x {first['length']:.0f} tokens, {first['precision']}, "
        f"{seeds} seed{'s' * (seeds > 1)}"
    )


def draw_beginning(ours: Selection, styles: Styles) -> Any:
    """The training loss of the first steps, means of the steps between two points, one line a run."""
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    curves = ours.curves.merge(ours.runs[["run", "lr"]], on="run", suffixes=("_shown", ""))
    for (arm, lr, _), own in curves.sort_values("step").groupby(["arm", "lr", "seed"]):
        label = f"{styles.label(str(arm))} {lr:g}" if own["seed"].iloc[0] == curves["seed"].min() else None
        axes.plot(own["step"], own["train_loss"], **styles.line(str(arm)), label=label)
    axes.set(xlabel="step", ylabel=TRAIN.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    headline(figure, title(ours))
    return figure


def draw_by_lr(ours: Selection, styles: Styles) -> Any:
    """The lowest validation loss against the learning rate, one line an optimizer."""
    figure = draw_learning_rates([ours], styles, [None])
    headline(figure, title(ours))
    return figure


FINDING = "Fromage scales up to a language transformer of more than 1e8 parameters"
UNREAD = "abstract of version 1 (there: SQuAD fine-tuning, see finetune_qa)"

REPORT = Report(
    title="Fromage, version 1: a transformer of more than 1e8 parameters",
    figures=(
        Figure("", BEGINNING, draw_beginning, scales=("quick", "smoke")),
        Figure("", BY_LR, draw_by_lr, scales=("gpu",)),
    ),
    claims=(
        Claim(FINDING, BY_LR, ("gpu",), UNREAD, judge_scales_up, finding=FINDING, arms=("fromage", "adamw")),
        *(
            Claim(
                f"{label} trains a language transformer of more than 1e8 parameters, in its first steps",
                BEGINNING,
                ("quick",),
                UNREAD,
                partial(judge_falls, arm),
                finding=FINDING,
                label=label,
                arms=(arm,),
            )
            for arm, label in LABELS.items()
        ),
    ),
    cost={
        "gpu": ("make reproduce-transformer-100m SCALE=gpu LAUNCHER=serial", "18 runs of 1,000 steps: a GPU"),
        "quick": ("make reproduce-transformer-100m LAUNCHER=serial", "3 runs of 20 steps: minutes of a CPU core each"),
    },
)
