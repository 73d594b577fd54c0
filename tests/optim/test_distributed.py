"""Two processes, with shards or with halves of the batch, train as one process does; all of it in float64."""

import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn
from torch.multiprocessing.spawn import ProcessException

from reltrust.optim import IntegerMadam, lns

from . import distributed_worker as worker

pytestmark = pytest.mark.xdist_group("distributed")  # one pair of processes for all tests

EACH = pytest.mark.parametrize("optimizer", worker.OPTIMIZERS)
EACH_DIFFERENT = pytest.mark.parametrize("optimizer", worker.DIFFERENT)
EACH_SHARDED = pytest.mark.parametrize(("mesh", "optimizer"), worker.SHARDED)
EACH_WITH_MOMENTS = pytest.mark.parametrize("optimizer", worker.HAVE_MOMENTS)
LEVELS = pytest.mark.parametrize("levels", worker.LEVELS)
MOMENTS = {"level", "exp_avg", "exp_avg_rms"}

Result = dict[str, Any]


class Runs:
    """What each process has left of each case."""

    def __init__(self, folder: Path, failure: str) -> None:
        self._folder, self._failure = folder, failure

    def of(self, case: str) -> list[Result]:
        """The case's result in each process; fails with the tracebacks of those processes in which it failed."""
        files = [self._folder / case / f"{rank}.pt" for rank in range(worker.WORLD_SIZE)]
        results = [torch.load(file) if file.exists() else "left nothing" for file in files]
        failures = [f"process {rank}: {result}" for rank, result in enumerate(results) if isinstance(result, str)]
        if failures:
            pytest.fail("\n".join([case, *failures, self._failure]), pytrace=False)
        return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("distributed")
    failure = ""
    deadline = time.monotonic() + worker.TIMEOUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        pair = multiprocessing.spawn(worker.work, (str(folder),), nprocs=worker.WORLD_SIZE, join=False)
    try:
        while not pair.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                failure = f"not done after {worker.TIMEOUT} s"
                break
    except ProcessException as error:
        failure = str(error)
    finally:
        for process in pair.processes:
            process.kill()
            process.join()
    errors = [file.read_text() for file in sorted(folder.glob("*.err"))]
    return Runs(folder, "\n".join([failure, *errors]).strip())


@cache
def alone(optimizer: str, **how: Any) -> Result:
    model = worker.network()
    return worker.trained(model, worker.OPTIMIZERS[optimizer](model.parameters()), **how)


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def assert_trained_alike(actual: Result, expected: Result) -> None:
    assert_close(actual["weights"], expected["weights"])
    assert_close(actual["state"], expected["state"])


# --- shards and halves of the batch ----------------------------------------------------------------------------------


def test_the_shards_are_uneven_and_of_the_last_layer_one_process_holds_nothing(runs: Runs) -> None:
    first, second = (result["shard_sizes"] for result in runs.of("fully sharded, 2, fromage"))
    assert all(n > m for n, m in zip(first, second, strict=True))
    assert second[-2:] == [0, 0]
    assert all(second[:-2])


@EACH_SHARDED
def test_fully_sharded_training_equals_that_of_one_process(runs: Runs, mesh: str, optimizer: str) -> None:
    for result in runs.of(f"fully sharded, {mesh}, {optimizer}"):
        assert_trained_alike(result, alone(optimizer))


@EACH_SHARDED
def test_elementwise_state_is_sharded_like_its_parameter_and_single_numbers_are_plain(
    runs: Runs, mesh: str, optimizer: str
) -> None:
    for result in runs.of(f"fully sharded, {mesh}, {optimizer}"):
        assert result["layout"].keys() == alone(optimizer)["state"].keys()
        for name, layout in result["layout"].items():
            assert layout == ("like the parameter" if name.split(":")[1] in MOMENTS else "Tensor []"), name


@EACH_DIFFERENT
def test_clipped_gradients_of_shards_train_like_those_of_one_process(runs: Runs, optimizer: str) -> None:
    expected = alone(optimizer, max_norm=worker.CLIP)
    assert all(norm > worker.CLIP for norm in expected["grad_norms"])
    for result in runs.of(f"clipped, {optimizer}"):
        assert_close(result["grad_norms"], expected["grad_norms"])
        assert_close(result["gradients"], expected["gradients"])
        assert_trained_alike(result, expected)


@EACH_DIFFERENT
@pytest.mark.parametrize("bucket_views", [False, True])
def test_data_parallel_training_equals_that_of_one_process_on_whole_batches(
    runs: Runs, bucket_views: bool, optimizer: str
) -> None:
    for result in runs.of(f"data parallel, {bucket_views}, {optimizer}"):
        assert_trained_alike(result, alone(optimizer))


@EACH
def test_a_gradient_left_in_parts_by_each_process_counts_as_their_sum(runs: Runs, optimizer: str) -> None:
    for result in runs.of(f"unsummed gradients, {optimizer}"):
        assert_trained_alike(result, alone(optimizer))


# --- saved and restored ----------------------------------------------------------------------------------------------


def assert_continues(result: Result) -> None:
    assert_same(result["restored"], result["at_save"])
    assert_same(result["continued"], result["uninterrupted"])


@EACH
def test_a_distributed_checkpoint_continues_to_the_bit(runs: Runs, optimizer: str) -> None:
    for result in runs.of(f"restored, checkpoint, {optimizer}"):
        assert_continues(result)
        assert_trained_alike(result["continued"], alone(optimizer))


@EACH_DIFFERENT
def test_a_distributed_checkpoint_of_the_optimizer_read_after_the_weights_continues_to_the_bit(
    runs: Runs, optimizer: str
) -> None:
    for result in runs.of(f"restored, weights first, {optimizer}"):
        assert_continues(result)


@EACH_WITH_MOMENTS
def test_a_state_of_whole_tensors_continues_to_the_bit(runs: Runs, optimizer: str) -> None:
    for result in runs.of(f"restored, whole tensors, {optimizer}"):
        assert_continues(result)


@EACH_DIFFERENT
def test_a_sharded_state_dict_continues_to_the_bit(runs: Runs, optimizer: str) -> None:
    for result in runs.of(f"restored, own state_dict, {optimizer}"):
        assert_continues(result)


# --- levels ----------------------------------------------------------------------------------------------------------


@cache
def alone_on_levels(levels: int) -> tuple[nn.Module, IntegerMadam]:
    model = worker.network()
    optimizer = IntegerMadam(model.parameters(), levels=levels)
    worker.train(model, optimizer)
    return model, optimizer


@LEVELS
def test_the_levels_of_a_sharded_parameter_are_those_of_the_whole(runs: Runs, levels: int) -> None:
    model, optimizer = alone_on_levels(levels)
    for result in runs.of(f"levels, {levels}"):
        assert result["before"] == [None] * len(list(model.parameters()))
        for name, p in model.named_parameters():
            assert name in result["held"]
            held, alike = result["held"][name], optimizer.quantized(p)
            assert alike is not None
            assert held["k"] == levels
            assert_same([held["sign"], held["level"]], [alike[0].sign, alike[0].level])
            assert_close(held["scale"], alike[0].scale)
            assert_same(held["meant"], result["weights"][name])


@LEVELS
@pytest.mark.parametrize("when", worker.TIMES)
def test_a_sharded_model_is_saved_whole_and_its_levels_in_as_few_bytes_as_those_of_one_process(
    runs: Runs, when: str, levels: int, tmp_path: Path
) -> None:
    size = lns.save(tmp_path / "alone.lns", *alone_on_levels(levels))
    for result in runs.of(f"saved levels, {when}, {levels}"):
        assert result["parts"] == []
        assert_same(result["loaded"], result["weights"])
        if when != "before the first step":  # when there are no levels yet
            assert result["size"] == size
