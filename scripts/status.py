"""Lists what has run, what runs, and what failed, from the records under results/runs."""

from collections import Counter, defaultdict

from arguments import Parser

from reltrust.records.store import RunRecord, Status, Store


def describe(record: RunRecord) -> str:
    status = record.status
    if status is Status.RUNNING and not record.is_busy:
        return "interrupted"  # its process was killed without a word; it will be resumed
    return str(status)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_results("runs")
    arguments = parser.parse_args()

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    notable = []
    for record in Store(arguments.results).records():
        status = describe(record)
        counts["/".join(record.path.parts[-3:-1])][status] += 1
        if status not in (Status.FINISHED, Status.DIVERGED):
            rows = record.metrics
            step = f"step {rows[-1]['step']}" if rows else "no step logged"
            notable.append(f"{status:>12}  {record.path}  {step}  {record.error or ''}".rstrip())
    for group, statuses in counts.items():
        print(f"{group}: {', '.join(f'{count} {status}' for status, count in sorted(statuses.items()))}")
    print("\n".join(notable) if notable or counts else f"no runs in {arguments.results}/runs")


if __name__ == "__main__":
    main()
