"""What a figure shows, in words: of how many seeds, selected how, and what is not there."""

import math

import pandas as pd

from reltrust.reporting.selection import Selection, arms, describe

_NAMES = {"lr": "learning rate"}


def named(column: str) -> str:
    """A column of a table as people call it."""
    return _NAMES.get(column, column.replace("_", " "))


def caption(*selections: Selection, selected: str | None = None, note: str = "") -> str:
    """Scale, number of seeds, what was selected by which rule, and what became of diverged runs.

    Of several selections: what holds of all of them, then each sentence with the measures that it holds of.

    Args:
        selected: stands in the place of what is said of the selection.
        note: stands at the end.
    """
    told = [(one.comparison.measure.label, _sentences(one, selected)) for one in selections]
    every = list(dict.fromkeys(sentence for _, sentences in told for sentence in sentences))
    shared = [sentence for sentence in every if all(sentence in sentences for _, sentences in told)]
    own = []
    for sentence in every:
        if sentence not in shared:
            labels = ", ".join(label for label, sentences in told if sentence in sentences)
            own.append(f"{labels[0].upper()}{labels[1:]}: {sentence}")
    return " ".join([*shared, *own, *([note] if note else [])])


def _sentences(selection: Selection, selected: str | None) -> list[str]:
    comparison, runs = selection.comparison, selection.runs
    measure, cells = comparison.measure, describe(selection)
    sentences = [f"Scale {selection.scale}"]
    if runs.empty:
        return [f"{sentences[0]}: no runs that may be compared."]
    least, most = int(cells["n"].min()), int(cells["n"].max())
    sentences[0] += f", n = {least if least == most else f'{least} to {most}'} seed{'s' * (most > 1)} a point."
    if selected is not None:
        sentences.append(selected)
    elif comparison.tuned is None:
        shown = ""
        if comparison.x == "lr":
            rates = runs["lr"].unique()
            shown = ": every learning rate is shown" if len(rates) > 1 else f": the learning rate is {rates[0]:g}"
        sentences.append(f"Nothing is selected{shown}.")
    elif (tried := runs.groupby(["arm", comparison.x])[comparison.tuned].nunique()).max() == 1:
        sentences.append(f"Nothing is selected: one {named(comparison.tuned)} was run for each point.")
    else:
        count = f"{tried.min()}" if tried.min() == tried.max() else f"{tried.min()} to {tried.max()}"
        word = "highest" if measure.best == "max" else "lowest"
        sentences.append(
            f"The {named(comparison.tuned)} of each point is the one of {count} with the {word} mean over seeds "
            f"({measure.label})."
        )
    diverged = int((runs["status"] == "diverged").sum())
    if diverged:
        worst = math.exp(measure.diverged) if measure.exp and measure.diverged < 700 else measure.diverged
        sentences.append(f"{diverged} of {len(runs)} runs diverged and count as {worst:.4g}.")
    return sentences


def missing(runs: pd.DataFrame, selection: Selection, published: pd.DataFrame | None) -> list[str]:
    """A line for every arm whose grid has holes, and for what was published and has no runs: an arm, or places of it.

    An arm's grid is the product of the values of x, of what is tuned and of the seeds that at least half as many runs
    have as have the commonest one: a few runs beside a sweep do not make a grid of their own.
    """
    comparison = selection.comparison
    keys = [*dict.fromkeys([comparison.x, *([comparison.tuned] if comparison.tuned else []), "seed"])]
    table, lines = runs.assign(arm=arms(runs, comparison.arm)), []
    for arm, own in table.groupby("arm"):
        there, full = own[keys].drop_duplicates().dropna(), 1
        for key in keys:
            counts = there[key].value_counts()
            usual = counts[2 * counts >= counts.max()].index
            there, full = there[there[key].isin(usual)], full * len(usual)
        if len(there) < full:
            names = " x ".join(map(named, keys))
            lines.append(f"{full - len(there)} of {full} runs of {arm} ({names})")
    for arm, of_arm in [] if published is None else published.groupby("arm"):
        ours = table[table["arm"] == arm]
        places = set(of_arm.get(comparison.x, ()))
        if ours.empty:
            lines.append(f"all runs of {arm}, which was published")
        elif absent := places - set(ours[comparison.x]):
            lines.append(f"{len(absent)} of {len(places)} published places of {arm} ({named(comparison.x)})")
    return lines
