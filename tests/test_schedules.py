"""Learning-rate schedules: factors of the initial learning rate, by the step."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reltrust.schedules import Constant, Cosine, Exponential, Linear, Milestones

STEPS = 20_000  # of a run


def constant() -> Callable[[int], float]:
    return lambda step: Constant(name="constant").factor(step, STEPS)


def exponential(decay: float, every: int) -> Callable[[int], float]:
    return lambda step: Exponential(name="exponential", decay=decay, every=every).factor(step, STEPS)


def milestones(decay: float, at: list[int]) -> Callable[[int], float]:
    schedule = Milestones(name="milestones", decay=decay, at=list(at))
    return lambda step: schedule.factor(step, STEPS)


few = settings(deadline=None, max_examples=30, derandomize=True, database=None)
decays = st.floats(0.01, 1)
steps = st.integers(0, 10_000)


def test_exponential_multiplies_after_every_so_many_steps() -> None:
    schedule = exponential(0.5, every=3)
    assert [schedule(step) for step in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_exponential_is_the_published_decay_of_the_depth_benchmark() -> None:
    schedule = exponential(0.95, every=240)
    assert schedule(239) == 1.0
    assert schedule(240) == pytest.approx(0.95)
    assert schedule(99 * 240) == pytest.approx(0.95**99, rel=1e-12)
    assert schedule(100 * 240 - 1) == schedule(99 * 240)


@few
@given(decay=decays, every=st.integers(1, 500), step=steps)
def test_exponential_decays_by_the_same_factor_from_each_span_to_the_next(decay: float, every: int, step: int) -> None:
    schedule = exponential(decay, every)
    assert schedule(0) == 1.0
    assert schedule(step + every) == pytest.approx(decay * schedule(step), rel=1e-9, abs=1e-300)


def test_milestones_multiply_at_each_milestone_and_from_that_step_on() -> None:
    schedule = milestones(0.1, at=[150, 250])
    found = [schedule(step) for step in (0, 149, 150, 249, 250, 10_000)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_milestones_have_one_order_so_that_a_schedule_is_one_run() -> None:
    schedule = milestones(0.5, at=[2, 4, 7])
    assert [schedule(step) for step in range(9)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    with pytest.raises(ValueError, match="must be in ascending order"):
        milestones(0.5, at=[7, 2, 4])


def test_milestones_that_coincide_count_each() -> None:
    schedule = milestones(0.5, at=[3, 3])
    assert [schedule(2), schedule(3)] == [1.0, 0.25]


def test_without_milestones_the_factor_stays_1() -> None:
    assert [milestones(0.1, at=[])(step) for step in (0, 5, 10_000)] == [1.0, 1.0, 1.0]


def test_milestones_given_once_are_kept_though_the_list_changes_later() -> None:
    at = [5]
    schedule = milestones(0.1, at)
    at.append(2)
    assert schedule(3) == 1.0


@few
@given(decay=decays, at=st.lists(st.integers(1, 9_999), max_size=6).map(sorted), step=steps)
def test_milestones_decay_to_the_power_of_those_reached(decay: float, at: list[int], step: int) -> None:
    reached = sum(step >= milestone for milestone in at)
    assert milestones(decay, at)(step) == pytest.approx(decay**reached, rel=1e-12)


@few
@given(step=steps)
def test_constant_is_1_for_ever(step: int) -> None:
    assert constant()(step) == 1.0


@few
@given(decay=decays, step=steps)
def test_every_schedule_gives_a_float_and_never_rises(decay: float, step: int) -> None:
    for schedule in (exponential(decay, 7), milestones(decay, [3, 100, 2_000]), constant()):
        assert type(schedule(step)) is float
        assert 0 <= schedule(step + 1) <= schedule(step) <= 1


def test_linear_rises_to_1_and_falls_to_its_floor_at_the_end() -> None:
    schedule = Linear(name="linear", warmup=4, floor=0.2)
    found = [schedule.factor(step, 12) for step in (0, 1, 3, 4, 8, 11, 12, 50)]
    assert found == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.6, 0.3, 0.2, 0.2])


def test_cosine_is_half_a_period_from_1_to_its_floor() -> None:
    schedule = Cosine(name="cosine", warmup=2, floor=0.0)
    found = [schedule.factor(step, 10) for step in (0, 1, 2, 4, 6, 8, 10)]
    assert found == pytest.approx([0.5, 1, 1, 0.85355339, 0.5, 0.14644661, 0], abs=1e-8)


def test_a_warm_up_alone_and_none_at_all_are_no_division_by_zero() -> None:
    assert Cosine(name="cosine", warmup=0, floor=0.1).factor(0, 1) == 1.0
    assert Linear(name="linear", warmup=5, floor=0.0).factor(4, 5) == 1.0


def test_only_schedules_that_end_somewhere_depend_on_the_length() -> None:
    for kind in (Constant, Exponential, Milestones):
        assert not kind.depends_on_length
    assert Linear.depends_on_length
    assert Cosine.depends_on_length
