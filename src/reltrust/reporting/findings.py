"""The README's table: a row for each published finding, at the strongest scale that bears a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reltrust.reporting.claims import Claim, Judgement, Verdict
from reltrust.reporting.report import Report, evaluate, load_report, names

_HEAD = (
    "| figure | finding | published | ours | verdict | scale | command | cost |\n|---|---|---|---|---|---|---|---|\n"
)


_LONG = 600  # characters that a cell may have


@dataclass(frozen=True)
class Finding:
    """What one scale's claims say together of a published finding."""

    text: str
    scale: str
    claims: tuple[Claim, ...]
    judgements: tuple[Judgement, ...]

    @property
    def published(self) -> str:
        """What was published of each claim with its label; what holds of most of them is first, and has none."""
        texts = [one.published for one in self.judgements]
        most = max(texts, key=texts.count)
        return self._together(texts, most if 2 * texts.count(most) > len(texts) else "")

    @property
    def ours(self) -> str:
        """What was measured; where that is too long for a cell, which of its claims have which verdict."""
        text = self._together([one.ours for one in self.judgements])
        if len(text) <= _LONG:
            return text
        by_verdict: dict[Verdict, list[str]] = {}
        for claim, one in zip(self.claims, self.judgements, strict=True):
            by_verdict.setdefault(one.verdict, []).append(claim.label)
        order = [verdict for verdict in Verdict if verdict in by_verdict]
        return "<br>".join(f"{verdict}: {'; '.join(by_verdict[verdict])}" for verdict in order)

    def _together(self, texts: list[str], first: str = "") -> str:
        """One line where all say the same, else ``first``, and a line for each other text with its claims' labels."""
        if len(set(texts)) == 1:
            return texts[0]
        labels: dict[str, list[str]] = {}
        for claim, text in zip(self.claims, texts, strict=True):
            labels.setdefault(text, []).append(claim.label)
        lines = [first] if first else []
        for text, own in labels.items():
            if text != first:
                lines.append(f"{', '.join(own)}: {text}" if any(own) else text)
        return "<br>".join(lines)

    @property
    def verdict(self) -> Verdict:
        """That of its claims where they agree; ``partly`` where some are reproduced, or reproduced in part, and others
        are not; of those that were not run nothing is said, and with one of them it is at best ``partly``."""
        verdicts = {one.verdict for one in self.judgements}
        if len(verdicts) == 1:
            return verdicts.pop()
        found = verdicts - {Verdict.NOT_RUN}
        return Verdict.NOT_REPRODUCED if found == {Verdict.NOT_REPRODUCED} else Verdict.PARTLY

    @property
    def in_words(self) -> str:
        """The verdict, with how many of its claims are reproduced where that is not all or none."""
        count = sum(one.verdict is Verdict.REPRODUCED for one in self.judgements)
        mixed = len({one.verdict for one in self.judgements}) > 1
        return f"**{self.verdict}**" + (f" ({count} of {len(self.judgements)} reproduced)" if mixed else "")


def findings(report: Report, judged: Mapping[str, Sequence[Judgement]]) -> list[Finding]:
    """Each finding of an experiment once, in the order of its claims.

    At the strongest scale (the first in ``report.cost``) of which every claim was judged; else at the strongest of
    which any was; else, as not run, at the last, which costs least. Where a scale and its ``report.parts`` both have
    claims of the finding, they are judged together, and the parts apart only while none of the scale's own was judged.

    Args:
        judged: by scale, a judgement on every claim of the scale, in the order of ``report.claims``.
    """
    found = []
    for text in dict.fromkeys(claim.finding for claim in report.claims if claim.finding):
        at_scales = []
        own = {
            scale: [
                pair for pair in zip(report.claims_of(scale), judged[scale], strict=True) if pair[0].finding == text
            ]
            for scale in report.cost
        }
        begun = {scale for scale, pairs in own.items() if any(one.verdict is not Verdict.NOT_RUN for _, one in pairs)}
        shown_there = {part for scale in begun for part in report.parts.get(scale, ())}
        for scale, pairs in own.items():
            if pairs and scale not in shown_there:
                of_parts = [pair for part in report.parts.get(scale, ()) for pair in own.get(part, [])]
                claims, judgements = zip(*pairs, *of_parts, strict=True)
                at_scales.append(Finding(text, scale, claims, judgements))
        run = [{one.verdict is not Verdict.NOT_RUN for one in finding.judgements} for finding in at_scales]
        places = [place for place, said in enumerate(run) if said == {True}]
        places += [place for place, said in enumerate(run) if True in said]
        found.append(at_scales[places[0] if places else -1])
    return found


def table(results: str | Path) -> str:
    """The findings of all experiments as a table in Markdown."""
    lines = []
    for name in names():
        report = load_report(name)
        evaluations = {one.scale: one for one in evaluate(results, name, report)}
        judged = {
            scale: evaluations[scale].judgements if scale in evaluations else report.not_run(scale)
            for scale in report.cost
        }
        for one in findings(report, judged):
            command, cost = report.cost[one.scale]
            cells = (report.title, one.text, one.published, one.ours, one.in_words, one.scale, f"`{command}`", cost)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return _HEAD + "".join(lines)
