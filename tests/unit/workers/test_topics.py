"""How a worker's slots are shared among topics."""

from __future__ import annotations

from netscript_workers.domain import ClaimedExecution
from netscript_workers.topics import Places, Served, TopicPlan, TopicRule, TopicSlots

PAYMENTS = TopicRule(name="payments", concurrency=3)
REPORTS = TopicRule(name="reports", concurrency=2, mode="distributed")


def claimed(id_: str, topic: str) -> ClaimedExecution:
    return ClaimedExecution(
        id_, 1, "job", "a", topic, "{}", 1, 3, 0, 50, None, None, None, None, None, 0
    )


def test_a_worker_for_all_topics_leaves_distributed_ones_alone() -> None:
    plan = TopicPlan(None, [PAYMENTS, REPORTS], 10)
    assert "reports" not in plan.served
    assert "payments" in plan.served
    assert "any" in plan.served
    assert not plan.served.is_all
    assert (plan.capacity, plan.own, plan.most) == (10, {}, {"payments": 3})


def test_a_worker_that_names_a_distributed_topic_has_slots_for_it_apart() -> None:
    plan = TopicPlan(["reports", "mails"], [PAYMENTS, REPORTS], 10)
    assert (plan.shared, plan.own, plan.most) == (10, {"reports": 2}, {})
    assert plan.capacity == 12
    alone = TopicPlan(["reports"], [REPORTS], 10)
    assert (alone.shared, alone.capacity) == (0, 2)
    unbounded = TopicPlan(["x"], [TopicRule(name="x", mode="distributed")], 10)
    assert unbounded.own == {"x": 10}


def test_without_rules_nothing_is_counted() -> None:
    plan = TopicPlan(None, [TopicRule(name="x", rate="1/s")], 10)
    assert plan.is_plain
    assert plan.served.is_all
    assert plan.capacity == 10


def test_what_runs_is_counted_where_its_slot_is() -> None:
    slots = TopicSlots(TopicPlan(["reports", "payments", "any"], [PAYMENTS, REPORTS], 4))
    slots.take([claimed("1", "reports"), claimed("2", "payments"), claimed("3", "any")])
    free = slots.free({"1", "2", "3"})
    assert (free.shared, free.most, free.own) == (2, {"payments": 2}, {"reports": 1})
    assert (free.of("payments"), free.of("any"), free.of("reports"), free.total) == (2, 2, 1, 3)
    free.take("payments", 2)
    assert (free.of("payments"), free.of("any"), free.of("reports"), free.total) == (0, 0, 1, 1)
    ended = slots.free({"3"})
    assert (ended.shared, ended.of("payments"), ended.of("reports")) == (3, 3, 2)


def test_only_topics_with_a_place_are_left_when_others_are_full() -> None:
    served = Served()
    assert Places(1, {"a": 0}).narrow(served) == Served(but=frozenset({"a"}))
    assert Places(0, {}, {"x": 1, "y": 0}).narrow(served) == Served(("x",))
    assert Places(5).narrow(served) == served
