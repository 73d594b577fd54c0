"""Shows recorded runs to Weights & Biases, from results/runs alone: for those who trained with tracking=none."""

import sys

from arguments import Parser

from reltrust.errors import DamagedError, RecordError, UserError
from reltrust.records.store import Status, Store
from reltrust.records.tracking import check_login, obeying_environment, replay
from reltrust.settings import Tracking

AT_ONCE = 16  # an upload takes seconds to start


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("experiment", help="for example mlp_depth")
    parser.add_results("runs")
    parser.add_argument("--project", default="reltrust")
    parser.add_argument("--entity", default=None)
    parser.add_argument("--offline", action="store_true", help="write W&B's files only")
    arguments = parser.parse_args()

    begun: dict[str, int] = {}
    ended, unreadable = [], False
    for record in Store(arguments.results).records():
        name = record.path.parts[-3]
        begun[name] = begun.get(name, 0) + 1
        if name != arguments.experiment:
            continue
        try:
            if (status := record.status) is Status.DAMAGED:
                raise DamagedError(record.error)
            if status is not None and status.is_result:
                ended.append(record)
        except RecordError as error:  # the others are given
            print(f"error: {error}", file=sys.stderr)
            unreadable = True
    if arguments.experiment not in begun:
        allowed = f"allowed are {', '.join(begun)}" if begun else "there are none"
        parser.error(f"experiment={arguments.experiment}: no runs in {arguments.results}/runs, {allowed}")
    if not ended:
        parser.error(f"experiment={arguments.experiment}: none of its {begun[arguments.experiment]} runs has a result")

    tracking = obeying_environment(
        Tracking(
            mode="wandb_offline" if arguments.offline else "wandb",
            project=arguments.project,
            entity=arguments.entity,
            timeout_seconds=60.0,
        )
    )
    if tracking.mode == "none":
        parser.error("WANDB_MODE=disabled: nothing is shown to W&B")
    try:
        if tracking.mode == "wandb":
            check_login()
    except UserError as error:
        sys.exit(f"error: {error}")
    for first in range(0, len(ended), AT_ONCE):
        records = ended[first : first + AT_ONCE]
        missing = replay(records, tracking, arguments.results)
        for record in records:
            if record not in missing:
                print(f"given to W&B: {record.path}")
        if missing:
            sys.exit(1)
    sys.exit(unreadable)


if __name__ == "__main__":
    main()
