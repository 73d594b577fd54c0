"""What is compared, and the rules by which the claims of arXiv 1905.12207 are judged."""

import itertools
import math

import numpy as np
import pandas as pd

from reltrust.reporting.claims import Verdict, judge_all
from reltrust.reporting.selection import Comparison, Measure, Selection

DEFECTIVE = Measure("defective", "networks of less than the expected dimension", "min", 1e9, ties="disagreements")
TABLE = Comparison(DEFECTIVE, x="power", arm="depth", tuned=None)
MINIMAL = Measure("minimal", "minimal filling networks", "max", 0.0, ties="computed")
FILLINGS = Comparison(MINIMAL, x="outputs", arm=("depth", "inputs"), tuned=None)
FLOOR = Measure(
    "floor_median", "loss of the best of all restarts", "min", 1.0, ties="floor_largest", bounds=(0, math.inf)
)
TRAINING = Comparison(FLOOR, x="power", arm="network", tuned=None)

NO_FLOOR, A_FLOOR = 1e-6, 1e-4  # of the target's own squared size
RARE = 0.02


def widths_of(row: "pd.Series[float]") -> tuple[int, ...]:
    """d_0 to d_h, those that the row has."""
    return tuple(int(row[f"d{i}"]) for i in range(9) if f"d{i}" in row and not math.isnan(row[f"d{i}"]))


def rows_of(ours: Selection) -> pd.DataFrame:
    """A row a network, with the power of its run."""
    runs = ours.best[["run", "power", "depth"]]
    return ours.curves.drop(columns=["power", "depth"], errors="ignore").merge(runs, on="run")


# --- what is known ---------------------------------------------------------------------------------------------------


def known(widths: tuple[int, ...], power: int) -> int | None:
    """The dimension of networks with one hidden layer where it has a closed form; None of others.

    Power 1: matrices of rank k, the least width: ``k (d_0 + d_2 - k)``. One output: sums of d_1 powers of linear forms:
    of squares ``d_0 d_1 - C(d_1, 2)`` for d_1 <= d_0, and beyond all; of higher powers ``min(d_0 d_1, all)``, but one
    less in the exceptions of Alexander and Hirschowitz 1995: (d_0, d_1, power) = (3, 5, 4), (4, 9, 4), (5, 14, 4),
    (5, 7, 3).
    """
    if len(widths) != 3:
        return None
    d0, d1, d2 = widths
    if power == 1:
        k = min(widths)
        return k * (d0 + d2 - k)
    if d2 != 1:
        return None
    if power == 2:
        k = min(d0, d1)
        return d0 * k - math.comb(k, 2)
    exception = (d0, d1, power) in {(3, 5, 4), (4, 9, 4), (5, 14, 4), (5, 7, 3)}
    return min(d0 * d1, math.comb(power + d0 - 1, power)) - exception


# --- claims ----------------------------------------------------------------------------------------------------------


def judge_known(ours: Selection) -> tuple[str, Verdict]:
    """Whether dimensions are those of the closed forms.

    reproduced: all that have one, and both primes agree everywhere; partly: at least nine of ten; not reproduced:
    fewer; not run: none.
    """
    pairs = []
    if not ours.curves.empty:
        for _, row in rows_of(ours).iterrows():
            if (exact := known(widths_of(row), int(row["power"]))) is not None:
                pairs.append(int(row["dimension"]) == exact)
    if not pairs:
        return "-", Verdict.NOT_RUN
    disagreements = int(ours.best["disagreements"].sum())
    text = f"{sum(pairs)} of {len(pairs)} with a closed form; primes disagree on {disagreements} networks"
    share = float(np.mean(pairs))
    if share == 1 and disagreements == 0:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if share >= 0.9 else Verdict.NOT_REPRODUCED


def judge_high(ours: Selection) -> tuple[str, Verdict]:
    """Whether for high powers the expected dimension is attained, among networks with a hidden layer.

    reproduced: the share of defective ones never rises with the power, and is at most 0.02 at the highest, at every
    depth; partly: at the highest power it is below that at power 1 at every depth; not reproduced: otherwise; not run:
    fewer than two powers.
    """
    runs = ours.best[ours.best["depth"] > 1]
    shares = {
        depth: [float(one) for one in (own["defective"] / own["networks"])]
        for depth, own in runs.sort_values("power").groupby(runs["depth"].astype(int))  # a fit has none: a float
    }
    if not shares or runs.groupby("depth")["power"].nunique().min() < 2:
        return "-", Verdict.NOT_RUN
    powers = ", ".join(str(power) for power in sorted(runs["power"].unique()))
    words = "; ".join(f"depth {depth}: {', '.join(f'{one:.1%}' for one in own)}" for depth, own in shares.items())
    text = f"defective at powers {powers}, {words}"
    if all(all(b <= a for a, b in itertools.pairwise(own)) and own[-1] <= RARE for own in shares.values()):
        return text, Verdict.REPRODUCED
    fell = all(own[-1] < own[0] for own in shares.values())
    return text, Verdict.PARTLY if fell else Verdict.NOT_REPRODUCED


def judge_bounds(ours: Selection) -> tuple[str, Verdict]:
    """Whether widths have bounds for filling: finite ones do, and none with fewer parameters than are needed.

    reproduced: each search found a network that fills, and each of these has at least as many free parameters as its
    space has dimensions; partly: some search found one; not reproduced: none did; not run: no search.
    """
    if ours.best.empty or ours.curves.empty:
        return "-", Verdict.NOT_RUN
    found = int((ours.best["minimal"] > 0).sum())
    enough = bool((ours.curves["expected"] >= ours.curves["ambient"]).all())
    text = f"{found} of {len(ours.best)} searches found some, {int(ours.best['minimal'].sum())} minimal ones"
    if found == len(ours.best) and enough:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if found else Verdict.NOT_REPRODUCED


def judge_unimodal(ours: Selection) -> tuple[str, Verdict]:
    """Whether the widths of minimal filling networks increase, and then decrease.

    reproduced: those of all that were found; partly: of at least nine of ten; not reproduced: of fewer; not run: none.
    """
    minimal, unimodal = (int(ours.best[key].sum()) for key in ("minimal", "unimodal"))
    if not minimal:
        return "-", Verdict.NOT_RUN
    depths = ", ".join(map(str, sorted(ours.best["depth"].astype(int).unique())))
    text = f"{unimodal} of {minimal} (power 2, depths {depths})"
    return text, judge_all(unimodal, minimal, partly=0.9)


def judge_floors(ours: Selection) -> tuple[str, Verdict]:
    """Whether only networks that do not fill have a floor of their loss.

    reproduced: for every target the best loss is at most 1e-6 with networks that fill, and at least 1e-4 with others;
    partly: so it is for the median target of each network; not reproduced: otherwise; not run: one kind is missing.
    """
    filling = ours.best["dimension"] == ours.best["ambient"]
    full, others = ours.best[filling], ours.best[~filling]
    if full.empty or others.empty:
        return "-", Verdict.NOT_RUN
    words = [
        f"{row['network']} (power {row['power']:.0f}) {row['floor_least']:.0e} to {row['floor_largest']:.0e}"
        for own in (full, others)
        for _, row in own.iterrows()
    ]
    named = f"filling {', '.join(words[: len(full)])}; not {', '.join(words[len(full) :])}"
    text = f"floors, {named} (n={int(ours.best['targets'].min())} targets)"
    if (full["floor_largest"] <= NO_FLOOR).all() and (others["floor_least"] >= A_FLOOR).all():
        return text, Verdict.REPRODUCED
    middle = (full["floor_median"] <= NO_FLOOR).all() and (others["floor_median"] >= A_FLOOR).all()
    return text, Verdict.PARTLY if middle else Verdict.NOT_REPRODUCED
