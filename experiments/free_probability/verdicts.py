"""What is compared, and the rules by which the claims of arXiv 2111.00841 are judged."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from reltrust.reporting.claims import Verdict, judge_all
from reltrust.reporting.selection import Comparison, Measure, Selection

from .architectures import ARCHITECTURES

DISTANCE = Measure(
    "distance", "distance of the distribution functions", best="min", diverged=1.0, ties="distance_code", bounds=(0, 1)
)
SPECTRA = Comparison(DISTANCE, x="gain", arm="network", tuned=None)
# A diverged run counts as far worse than chance, log 10 = 2.3 nats.
LOSS = Measure("test_loss", "test loss, nats", best="min", diverged=10.0, ties="train_loss", bounds=(0, math.inf))
ACCURACY = Measure("test_accuracy", "test accuracy", best="max", diverged=0.1, ties="test_loss", bounds=(0, 1))
BY_LOSS = Comparison(LOSS, x="gain", arm="network", tuned=None)
BY_ACCURACY = Comparison(ACCURACY, x="gain", arm="network", tuned=None)

NEAR = 0.03  # of distribution functions: with 2,400 eigenvalues sampled, a few times what is left of chance
BEST = 10  # architectures with the lowest loss
_RESAMPLES = 2_000


# --- claims: of spectra ----------------------------------------------------------------------------------------------


def uneven(network: str) -> bool:
    """Whether the network's widths differ."""
    return any(ratio != 1 for ratio in ARCHITECTURES[network].ratios)


def judge_certified(ours: Selection) -> tuple[str, Verdict]:
    """Whether convergence was proven at every point of every density.

    reproduced: at all; partly: at 99 % of them; not reproduced: at fewer; not run: no spectra.
    """
    if ours.runs.empty:
        return "-", Verdict.NOT_RUN
    points, missed = int(ours.runs["points"].sum()), int(ours.runs["uncertified"].sum())
    text = f"{points - missed:,} of {points:,} points certified, {len(ours.runs)} architectures"
    if missed == 0:
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if missed <= 0.01 * points else Verdict.NOT_REPRODUCED


def judge_spectra(column: str, chosen: Callable[[str], bool], ours: Selection) -> tuple[str, Verdict]:
    """Whether spectra are those of sampled networks, among the chosen architectures.

    reproduced: the distance of the distribution functions is at most 0.03 in all of them; partly: in at least half;
    not reproduced: in fewer; not run: fewer than two.
    """
    runs = ours.runs[ours.runs["network"].map(chosen)]
    if len(runs) < 2:
        return "-", Verdict.NOT_RUN
    found = runs[column]
    near = int((found <= NEAR).sum())
    worst = ARCHITECTURES[str(runs["network"].to_numpy()[found.argmax()])].label
    text = f"{near} of {len(runs)} within {NEAR}, the farthest {found.max():.3f} ({worst})"
    return text, judge_all(near, len(runs), partly=0.5)


def judge_quantiles(ours: Selection) -> tuple[str, Verdict]:
    """Whether the 0.9-quantile is that of sampled networks.

    reproduced: to within a tenth in all architectures; partly: in at least half; not reproduced: in fewer; not run:
    no spectra.
    """
    if ours.runs.empty:
        return "-", Verdict.NOT_RUN
    ratios = ours.runs["quantile_90"] / ours.runs["quantile_90_sampled"]
    near = int((np.abs(np.log(ratios)) <= math.log(1.1)).sum())
    text = f"{near} of {len(ratios)} within a tenth, from {ratios.min():.3f} to {ratios.max():.3f} of the sampled one"
    return text, judge_all(near, len(ratios), partly=0.5)


def judge_fast(ours: Selection) -> tuple[str, Verdict]:
    """Whether all certified points of a density take less CPU time than the eigenvalues of one sampled network.

    reproduced: less than a third in every architecture; partly: less in every one; not reproduced: not less in one; not
    run: no spectra.
    """
    if ours.runs.empty:
        return "-", Verdict.NOT_RUN
    ratios, width = ours.runs["times_as_fast"], int(ours.runs["width"].iloc[0])
    text = f"{ratios.min():.1f} to {ratios.max():.1f} times as fast as one network of width {width}"
    least = float(ratios.min())
    return text, Verdict.REPRODUCED if least >= 3 else Verdict.PARTLY if least > 1 else Verdict.NOT_REPRODUCED


# --- claims: of trainings --------------------------------------------------------------------------------------------


def trained(ours: Selection) -> pd.DataFrame:
    """A row an architecture (network, gain): ``log_quantile``, and the mean ``value`` over its seeds, their number.

    One of which every seed diverged has no spectrum on record, and is not among them.
    """
    found = ours.best.groupby(["network", "gain"]).agg(
        log_quantile=("log_quantile", "first"), value=("value", "mean"), n=("value", "size")
    )
    return found.dropna().reset_index()


def correlated(x: np.ndarray, y: np.ndarray, *, ranks: bool) -> tuple[float, float, float]:
    """Pearson's coefficient, or Spearman's, and its 95 % percentile interval, pairs resampled."""
    every = np.arange(len(x))[None]
    draws = np.random.default_rng(0).integers(len(x), size=(_RESAMPLES, len(x)))

    def coefficients(chosen: np.ndarray) -> np.ndarray:
        a, b = (_ranks(own[chosen]) if ranks else own[chosen] for own in (x, y))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        with np.errstate(invalid="ignore"):  # 0/0, of a draw of one pair alone, is NaN
            found: np.ndarray = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
        return found

    low, high = np.nanquantile(coefficients(draws), [0.025, 0.975])
    return float(coefficients(every)[0]), float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Of each in its row, (rows, n); equal ones have their mean."""
    each, others = values[:, :, None], values[:, None, :]
    found: np.ndarray = (others < each).sum(2) + ((others == each).sum(2) + 1) / 2
    return found


def both(ours: Selection) -> tuple[str, tuple[float, float, float], tuple[float, float, float]] | None:
    """Spearman's and Pearson's coefficient of log_quantile and the measure, in words too; None of fewer than ten."""
    table = trained(ours)
    if len(table) < 10:
        return None
    x, y = table["log_quantile"].to_numpy(float), table["value"].to_numpy(float)
    spearman, pearson = (correlated(x, y, ranks=ranks) for ranks in (True, False))
    text = "; ".join(
        f"{name} {value:.2f} in [{low:.2f}, {high:.2f}]"
        for name, (value, low, high) in (("Spearman", spearman), ("Pearson", pearson))
    )
    return f"{text} (n={len(table)} architectures, {int(table['n'].min())} seeds)", spearman, pearson


def judge_strong(ours: Selection) -> tuple[str, Verdict]:
    """Whether log10(q + 0.01), q the 0.9-quantile of the spectrum, and the final test loss correlate strongly.

    reproduced: all of the 95 % interval of Spearman's coefficient is at least 0.5 in size; partly: all of it is on one
    side of 0; not reproduced: it contains 0; not run: fewer than ten architectures.
    """
    if (found := both(ours)) is None:
        return "-", Verdict.NOT_RUN
    text, (_, low, high), _ = found
    if low >= 0.5 or high <= -0.5:
        return text, Verdict.REPRODUCED
    return text, Verdict.NOT_REPRODUCED if low <= 0 <= high else Verdict.PARTLY


def judge_accuracy(ours: Selection) -> tuple[str, Verdict]:
    """Whether the correlation with the final test accuracy comes near to 85 %.

    reproduced: Spearman's or Pearson's coefficient is at least 0.75 in size; partly: at least 0.5; not reproduced:
    less; not run: fewer than ten architectures.
    """
    if (found := both(ours)) is None:
        return "-", Verdict.NOT_RUN
    text, spearman, pearson = found
    size = max(abs(spearman[0]), abs(pearson[0]))
    return text, Verdict.REPRODUCED if size >= 0.75 else Verdict.PARTLY if size >= 0.5 else Verdict.NOT_REPRODUCED


def judge_hyperbolic(ours: Selection) -> tuple[str, Verdict]:
    """Whether the networks that learn best have eigenvalues far above 1, and not about 1.

    Looked at is the median of log10(q + 0.01) over the ten architectures with the lowest test loss.
    reproduced: all of its 95 % interval (architectures resampled) is above log10 2; partly: the median is above 0;
    not reproduced: it is not; not run: fewer than twenty architectures.
    """
    table = trained(ours)
    if len(table) < 2 * BEST:
        return "-", Verdict.NOT_RUN

    quantile, value = table["log_quantile"].to_numpy(float), table["value"].to_numpy(float)

    def middle(chosen: np.ndarray) -> np.ndarray:
        best = np.take_along_axis(chosen, np.argsort(value[chosen], axis=1, kind="stable")[:, :BEST], axis=1)
        return np.asarray(np.median(quantile[best], axis=1))

    draws = np.random.default_rng(0).integers(len(table), size=(_RESAMPLES, len(table)))
    low, high = np.quantile(middle(draws), [0.025, 0.975])
    found = float(middle(np.arange(len(table))[None])[0])
    text = f"median log10 of the {BEST} best {found:.2f} in [{low:.2f}, {high:.2f}] (n={len(table)} architectures)"
    if low > math.log10(2):
        return text, Verdict.REPRODUCED
    return text, Verdict.PARTLY if found > 0 else Verdict.NOT_REPRODUCED
