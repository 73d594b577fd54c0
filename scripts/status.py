"""Lists what has run, what runs, and what failed, from the records under results/runs."""

from collections import Counter, defaultdict

from arguments import Parser

from reltrust.errors import RecordError
from reltrust.records.store import RunRecord, Status, Store, busy


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_results("runs")
    arguments = parser.parse_args()

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    notable = []
    found: dict[RunRecord, str] = {}
    for record in Store(arguments.results).records():
        try:
            found[record] = str(record.status)
        except RecordError as error:
            notable.append(f"{'unknown':>12}  {error}")
    running = [record for record, status in found.items() if status == Status.RUNNING]
    for record, held in zip(running, busy(running), strict=True):
        if not held:
            found[record] = "interrupted"  # its process was killed without a word; it will be resumed
    for record, status in found.items():
        counts["/".join(record.path.parts[-3:-1])][status] += 1
        if status not in (Status.FINISHED, Status.DIVERGED):
            step = f"step {record.last_step}" if record.last_step else "no step logged"
            notable.append(f"{status:>12}  {record.path}  {step}  {record.error or ''}".rstrip())
    for group, statuses in counts.items():
        print(f"{group}: {', '.join(f'{count} {status}' for status, count in sorted(statuses.items()))}")
    print("\n".join(notable) if notable or counts else f"no runs in {arguments.results}/runs")


if __name__ == "__main__":
    main()
