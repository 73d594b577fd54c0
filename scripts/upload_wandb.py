"""Shows recorded runs to Weights & Biases, from results/runs alone: for those who trained with tracking=none."""

import argparse

from reltrust.records.store import Store
from reltrust.records.tracking import replay
from reltrust.settings import Tracking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="for example mlp_depth")
    parser.add_argument("--results", default="results", help="the folder with runs/ (default: results)")
    parser.add_argument("--project", default="reltrust")
    parser.add_argument("--entity", default=None)
    parser.add_argument("--offline", action="store_true", help="write W&B's files only")
    arguments = parser.parse_args()

    tracking = Tracking(
        mode="wandb_offline" if arguments.offline else "wandb",
        project=arguments.project,
        entity=arguments.entity,
        timeout_seconds=60.0,
    )
    for record in Store(arguments.results).records(arguments.experiment):
        if record.status is not None and record.status.is_result:
            replay(record, tracking, arguments.results)
            print(f"given to W&B: {record.path}")


if __name__ == "__main__":
    main()
