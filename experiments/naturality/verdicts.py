"""What is compared, and the rules by which the claims of arXiv 2312.04739 are judged."""

import math
from typing import Any

import pandas as pd

from reltrust.reporting.claims import Verdict, judge_all
from reltrust.reporting.selection import Comparison, Measure, Selection, describe

from .expectations import BFLOAT16, CLASSES, POPULAR, RULES, Commutes, expected

# 1e9: a way that left the finite numbers has no defect; no run has this value.
DEFECT = Measure("defect_affine", "defect under an affine map", best="min", diverged=1e9, ties="travelled")
DEFECTS = Comparison(DEFECT, x="step_size", arm="rule", tuned=None)
NEEDED = Measure("steps_needed", "steps to 0.15 of the loss", best="min", diverged=1e9, ties="loss_share")
DESCENT = Comparison(NEEDED, x="condition", arm="rule", tuned="step_size")

ROUNDING, OF_BFLOAT16 = 1e-8, 0.03  # in units of the way
FALLS, SMALL = 0.7, 0.1  # a flow's defect falls with at least this power of the step size, and is small at the end
SLOWER, ALIKE = 3.0, 1.1  # times as many steps


def measured(rule: str, row: "pd.Series[Any]", kind: str) -> Commutes | None:
    """What a run's defects under a class of maps say; None if a way was not finite.

    exact: at the smallest steps at most 1e-8 of the way, with products in bfloat16 0.03; limit: at most 0.1, and
    falling with the power 0.7 of the step size or more; no: otherwise.
    """
    defect, order = float(row.get(f"defect_{kind}", math.nan)), float(row.get(f"order_{kind}", math.nan))
    if math.isnan(defect):
        return None
    if defect <= (OF_BFLOAT16 if rule in BFLOAT16 else ROUNDING):
        return "exact"
    return "limit" if order >= FALLS and defect <= SMALL else "no"


def entries(ours: Selection, rule: str) -> dict[str, list[Commutes | None]]:
    """By class what each seed's run says; none if the rule was not run."""
    runs = ours.best[ours.best["rule"] == rule]
    return {kind: [measured(rule, row, kind) for _, row in runs.iterrows()] for kind in CLASSES} if len(runs) else {}


def judge_derived(ours: Selection) -> tuple[str, Verdict]:
    """Whether every measured entry of the table is the derived one.

    reproduced: in every seed; partly: at least nine of ten; not reproduced: fewer; not run: a rule is missing.
    """
    table = {rule: entries(ours, rule) for rule in RULES}
    if any(not own for own in table.values()):
        return "-", Verdict.NOT_RUN
    pairs = [(expected(rule, kind), one) for rule, own in table.items() for kind, found in own.items() for one in found]
    right = sum(derived == one for derived, one in pairs)
    seeds = ours.best["seed"].nunique()
    text = f"{right} of {len(pairs)} entries ({len(RULES)} rules, {len(CLASSES)} classes, n={seeds} seeds)"
    return text, judge_all(right, len(pairs), partly=0.9)


def natural(ours: Selection, rule: str, kinds: tuple[str, ...]) -> bool | None:
    """Whether the rule commutes with these maps, in each seed exactly or in the limit; None if it was not run."""
    own = entries(ours, rule)
    return all(one in ("exact", "limit") for kind in kinds for one in own[kind]) if own else None


def judge_unnatural(ours: Selection) -> tuple[str, Verdict]:
    """Whether most popular optimizers are unnatural: they do not commute with the smooth nonlinear map.

    reproduced: more than half of them; partly: at least one; not reproduced: none; not run: one is missing.
    """
    found = {rule: natural(ours, rule, ("nonlinear",)) for rule in POPULAR}
    if any(one is None for one in found.values()):
        return "-", Verdict.NOT_RUN
    unnatural = [rule for rule, one in found.items() if not one]
    text = f"{len(unnatural)} of {len(found)}"
    if kept := [RULES[rule] for rule, one in found.items() if one]:
        text += f", all but {', '.join(kept)}"
    if len(unnatural) > len(found) / 2:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if unnatural else Verdict.NOT_REPRODUCED


def judge_natural(rules: tuple[str, ...], kinds: tuple[str, ...], ours: Selection) -> tuple[str, Verdict]:
    """Whether rules commute with maps of these classes.

    reproduced: all do, in every seed; partly: some do; not reproduced: none; not run: one is missing.
    """
    found = {rule: natural(ours, rule, kinds) for rule in rules}
    if any(one is None for one in found.values()):
        return "-", Verdict.NOT_RUN
    worst = {
        rule: ours.best.loc[ours.best["rule"] == rule, [f"defect_{kind}" for kind in kinds]].max().max()
        for rule in rules
    }
    text = "; ".join(f"{RULES[rule]} {worst[rule]:.1e}" for rule in rules)
    text = f"largest defect at the smallest steps, in units of the way: {text} (n={ours.best['seed'].nunique()} seeds)"
    return text, judge_all(sum(map(bool, found.values())), len(found))


def judge_descent(ours: Selection) -> tuple[str, Verdict]:
    """Whether gradient descent slows with the condition number of the coordinates, and natural gradient does not.

    Mean steps until the loss is 0.15 of that at the start, each rule at its best step size of each condition number.
    reproduced: at the largest number gradient descent needs at least three times the steps that it needs at the
    smallest, and natural gradient at most 1.1 times; partly: one of the two; not reproduced: none; not run: a rule is
    missing or has one condition number.
    """
    means = describe(ours)
    ratios, words = {}, []
    for rule in ("gd", "ngd"):
        own = means[means["arm"] == rule].sort_values("condition")
        if len(own) < 2:
            return "-", Verdict.NOT_RUN
        ratios[rule] = float(own["mean"].iloc[-1] / own["mean"].iloc[0])
        steps = ", ".join(f"{mean:.0f}" for mean in own["mean"])
        words.append(f"{RULES[rule]}: {steps}")
    numbers = ", ".join(f"{one:g}" for one in sorted(ours.best["condition"].unique()))
    text = f"steps at condition {numbers}, {'; '.join(words)} (n={int(means['n'].min())} seeds)"
    met = [ratios["gd"] >= SLOWER, ratios["ngd"] <= ALIKE]
    return text, judge_all(sum(met), len(met))
