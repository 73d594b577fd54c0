"""How the runs of a sweep are dealt out: which are to be one program, for several processes to share."""

from collections.abc import Collection, Hashable, Sequence

from reltrust.packing.eligibility import pack_key
from reltrust.settings import Settings

_PACKS_PER_WORKER = 2  # so that the workers end at about the same time
_LEAST_MEMBERS = 8  # fewer gain less from being packed than from another process


def group_into_packs(
    runs: Sequence[Settings], *, workers: int, max_members: int | None, alone: Collection[int] = ()
) -> list[list[int]]:
    """Places in ``runs`` of those that one process is to train as one program, in the order in which to start them.

    Runs of one shape are split where there would else be too little for every worker to do. Neighbours in a pack have,
    as far as possible, the same optimizer and hyperparameters. The places ``alone`` have no company.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, settings in enumerate(runs):
        groups.setdefault((pack_key(settings), i if i in alone else -1), []).append(i)
    packs = []
    for group in groups.values():
        ordered = sorted(group, key=lambda i: (repr(runs[i].optimizer), repr(runs[i].schedule)))
        wanted = -(-_PACKS_PER_WORKER * workers // len(groups)) if workers > 1 else 1
        shares = min(wanted, -(-len(group) // _LEAST_MEMBERS))
        if max_members is not None:
            shares = max(shares, -(-len(group) // max_members))
        packs += [ordered[share::shares] for share in range(shares)]
    return packs
