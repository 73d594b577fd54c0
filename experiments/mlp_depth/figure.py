"""Fromage paper, figure 3 (left): training accuracy of perceptrons against their depth.

Draws, from ``results/summaries/mlp_depth.csv`` and ``published.csv`` beside this file,

- ``mlp_depth-<protocol>``: accuracy against depth, one line an optimizer at its selected learning rate;
- ``mlp_depth-<protocol>-lr``: the same for every learning rate, one panel an optimizer;
- ``summaries/mlp_depth-<protocol>-selected.csv``: n, mean and spread of every cell beside the published number;

and prints a verdict on each claim. Needs pandas and matplotlib, not torch.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from reltrust.reporting import analysis, style
from reltrust.reporting.analysis import Accuracies
from reltrust.reporting.verdicts import Judgement, as_text, judge_grid_value, judge_order

EXPERIMENT = "mlp_depth"
CHANCE = 0.1


def _decay(every: int) -> str:
    return json.dumps({"name": "exponential", "decay": 0.95, "every": every})


_COMMON = {"init": "torch", "protocol": 1, "precision": "fp32"}

# What makes runs those of a named protocol, in columns of the table; other runs are named by their comparison's id.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {"data": "mnist", "width": 784, "batch_size": 250, "steps": 24000, "schedule": _decay(240)} | _COMMON,
    "quick": {"data": "digits", "width": 64, "batch_size": 50, "steps": 4800, "schedule": _decay(120)} | _COMMON,
    "smoke": {"data": "digits", "width": 32, "batch_size": 50, "steps": 120, "schedule": _decay(30)} | _COMMON,
}


def published() -> pd.DataFrame:
    """The authors' numbers; ``quantity`` is ``run`` (one learning rate) or ``figure`` (as they drew it: at each step
    the maximum over three learning rates, then averaged, which lifts chance from 0.112 to 0.129)."""
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    return table.assign(accuracy=table["train_accuracy"])


def beside_published(runs: pd.DataFrame) -> pd.DataFrame:
    """Each (optimizer, depth) at its selected learning rate: n, mean, standard deviation, extremes, and the published
    accuracy and learning rate of the same cell, selected by the same rule from the authors' runs."""
    theirs = published().query("quantity == 'run'").assign(train_loss=float("nan"))
    cells = analysis.describe(analysis.select_lr(theirs))[["optimizer", "hidden_layers", "lr", "mean"]]
    cells = cells.rename(columns={"lr": "published_lr", "mean": "published"})
    return analysis.describe(analysis.select_lr(runs)).merge(cells, how="left", on=["optimizer", "hidden_layers"])


def protocol_name(runs: pd.DataFrame) -> str:
    """The name of the protocol that runs of one comparison follow, or the comparison's id."""
    facts = runs.iloc[0]
    matches = (name for name, wanted in PROTOCOLS.items() if all(facts[key] == value for key, value in wanted.items()))
    return next(matches, str(runs["comparison"].iloc[0]))


def describe_protocol(runs: pd.DataFrame, name: str) -> str:
    first, seeds = runs.iloc[0], runs["seed"].nunique()
    return (
        f"{name if name in PROTOCOLS else 'other'} protocol: {first['data']}, width {first['width']}, "
        f"batch {first['batch_size']}, {first['steps']:,} steps, {first['init']} init, "
        f"{'' if first['precision'] == 'fp32' else first['precision'] + ', '}{seeds} seed{'s' * (seeds > 1)}"
    )


# --- claims ----------------------------------------------------------------------------------------------------------

ORDER_CLAIMS = [("fromage", "adam"), ("fromage", "sgd_momentum"), ("adam", "sgd_momentum")]


def judge(runs: pd.DataFrame, protocol: str) -> list[Judgement]:
    """A verdict on each claim: the order of the trainable depths under any protocol, their values under the paper's.

    120 steps of the smoke protocol say nothing about any claim: there every verdict is "not run".
    """
    theirs = _by_optimizer(published().query("quantity == 'run'").assign(seed=0))
    ours = _by_optimizer(runs) if protocol != "smoke" else {}
    return [_judge_order(a, b, ours, theirs) for a, b in ORDER_CLAIMS] + [
        _judge_value(optimizer, ours, theirs, protocol) for optimizer in ("fromage", "adam", "sgd_momentum")
    ]


def judgements(results: str | Path) -> dict[str, list[Judgement]]:
    """The verdicts under each named protocol; value claims of the paper's protocol also where it was not run."""
    found = {
        name: judge(runs, name)
        for _, runs in analysis.load(results, EXPERIMENT).groupby("comparison")
        if (name := protocol_name(runs)) in PROTOCOLS
    }
    ordered = len(ORDER_CLAIMS)
    if "quick" in found:
        found["quick"] = found["quick"][:ordered]
    return {"paper": judge(published().iloc[:0], "paper"), **found}


def _by_optimizer(runs: pd.DataFrame) -> dict[str, Accuracies]:
    accuracies = {str(name): Accuracies.of(group) for name, group in runs.groupby("optimizer")}
    return {name: found for name, found in accuracies.items() if found.n}


def _judge_order(a: str, b: str, ours: dict[str, Accuracies], theirs: dict[str, Accuracies]) -> Judgement:
    difference = interval = None
    measured = "-"
    if a in ours and b in ours:
        depth_a, depth_b = ours[a].trainable_depth(), ours[b].trainable_depth()
        difference, interval = depth_a - depth_b, analysis.bootstrap_difference(ours[a], ours[b])
        measured = f"{depth_a} > {depth_b}" if difference > 0 else f"{depth_a} vs {depth_b}"
        measured += f" (n={min(ours[a].n, ours[b].n)}"
        measured += f", difference in [{interval[0]:g}, {interval[1]:g}])" if interval else ")"
    return Judgement(
        claim=f"{style.label(a)} trains deeper perceptrons than {style.label(b)}",
        published=f"{theirs[a].trainable_depth()} > {theirs[b].trainable_depth()}",
        ours=measured,
        verdict=judge_order(difference, interval),
    )


def _judge_value(
    optimizer: str, ours: dict[str, Accuracies], theirs: dict[str, Accuracies], protocol: str
) -> Judgement:
    target, comparable = theirs[optimizer].trainable_depth(), protocol == "paper" and optimizer in ours
    reached = ours[optimizer].trainable_depth() if comparable else None
    deepest = " (the deepest tried)" if target == max(theirs[optimizer].depths) else ""
    return Judgement(
        claim=f"{style.label(optimizer)} trains up to this many hidden layers of width 784",
        published=f"{target}{deepest}",
        ours=f"{reached} (n={ours[optimizer].n})" if comparable else "-",
        verdict=judge_grid_value(reached, target, sorted({*theirs[optimizer].depths, reached or target})),
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_depth(runs: pd.DataFrame, protocol: str) -> Any:
    """Accuracy against depth: lines through means over seeds, dots for single seeds, the published points hollow."""
    selected = analysis.select_lr(runs)
    means = analysis.describe(selected)
    figure, axes = plt.subplots(figsize=(5.6, 3.5))
    if protocol == "paper":
        drawn = published().query("quantity == 'figure'")
        for optimizer in style.order(drawn["optimizer"].unique()):
            points = drawn[drawn["optimizer"] == optimizer]
            look = {**style.line(optimizer), "linestyle": "none", "markerfacecolor": "none", "markersize": 8}
            axes.plot(points["hidden_layers"], points["accuracy"], **look, alpha=0.7)
        axes.plot([], [], "o", color="0.4", markerfacecolor="none", markersize=8, label="as published")
    for optimizer in style.order(means["optimizer"].unique()):
        line = means[means["optimizer"] == optimizer]
        axes.plot(line["hidden_layers"], line["mean"], **style.line(optimizer), label=style.label(optimizer), zorder=3)
        seeds = selected[selected["optimizer"] == optimizer]
        axes.scatter(seeds["hidden_layers"], seeds["accuracy"], s=9, color=style.line(optimizer)["color"], alpha=0.5)
    axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("chance", (1.01, CHANCE), xycoords=("axes fraction", "data"), va="center", color="0.4")
    axes.set(xlabel="hidden layers", ylabel="training accuracy, last epoch", ylim=(0, 1.03))
    axes.set_title(describe_protocol(runs, protocol), fontsize=8, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


LEARNING_RATE_LOOKS = [  # grey, marker, dash
    ("0.0", "o", "-"),
    ("0.4", "s", (0, (5, 1.5))),
    ("0.65", "^", (0, (1, 1))),
    ("0.2", "D", (0, (3, 1, 1, 1))),
    ("0.8", "v", (0, (6, 2))),
]


def draw_learning_rates(runs: pd.DataFrame, protocol: str) -> Any:
    """Accuracy against depth for every learning rate, means over seeds and single seeds, a panel an optimizer."""
    optimizers = style.order(runs["optimizer"].unique())
    figure, panels = plt.subplots(1, len(optimizers), figsize=(2.9 * len(optimizers), 2.9), sharey=True, squeeze=False)
    for axes, optimizer in zip(panels[0], optimizers, strict=True):
        own = runs[runs["optimizer"] == optimizer]
        for lr, (shade, marker, dash) in zip(
            sorted(own["lr"].unique(), reverse=True), itertools.cycle(LEARNING_RATE_LOOKS), strict=False
        ):
            cell = own[own["lr"] == lr]
            mean = cell.groupby("hidden_layers")["accuracy"].mean()
            axes.plot(mean.index, mean, color=shade, marker=marker, linestyle=dash, markersize=4, label=f"{lr:g}")
            axes.scatter(cell["hidden_layers"], cell["accuracy"], s=6, color=shade, alpha=0.5)
        axes.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlabel="hidden layers", ylim=(0, 1.03))
        axes.set_title(style.label(optimizer), fontsize=9)
        axes.legend(title="learning rate", fontsize=7, title_fontsize=7)
    panels[0][0].set_ylabel("training accuracy, last epoch")
    figure.suptitle(describe_protocol(runs, protocol), fontsize=8, x=0.01, ha="left")
    return figure


# --- the whole -------------------------------------------------------------------------------------------------------


def report(results: str | Path, only: str | None = None) -> str:
    """Draws the figures of every protocol of which there are runs (or of ``only`` that), and returns the verdicts."""
    table = analysis.load(results, EXPERIMENT)
    texts = []
    for _, runs in table.groupby("comparison"):
        name = protocol_name(runs)
        if only not in (None, name):
            continue
        drawn = {"": draw_depth(runs, name), "-lr": draw_learning_rates(runs, name)}
        paths = [
            str(path)
            for suffix, figure in drawn.items()
            for path in style.save(figure, Path(results, "figures"), f"{EXPERIMENT}-{name}{suffix}")
        ]
        plt.close("all")
        cells = Path(results, "summaries", f"{EXPERIMENT}-{name}-selected.csv")
        beside_published(runs).to_csv(cells, index=False)
        note = {
            "paper": "",
            "smoke": "\nA smoke run shows that everything works; it says nothing about the claims.",
        }.get(name, "\nNot the published protocol: compared in order, not in value.")
        texts.append(
            f"{EXPERIMENT}, {describe_protocol(runs, name)}{note}\n{as_text(judge(runs, name))}\n"
            f"means, spreads, published numbers: {cells}\nfigures: {', '.join(paths)}"
        )
    return "\n\n".join(texts) if texts else f"{EXPERIMENT}: no runs of the protocol {only} in {results}/summaries"
