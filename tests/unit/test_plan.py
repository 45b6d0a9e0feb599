"""What a run is told by default: tuning differs from training from scratch."""

from __future__ import annotations

from brewhouse.stages.plan import BASE, plan


def test_the_demo_tunes_in_small_steps_and_asks_newcomers() -> None:
    options = plan("demo", size=None, train_tokens=None)["train_options"]
    assert (options["model"], options["batch_tokens"]) == (BASE, 2048)
    (only,) = options["stages"]
    assert (only["name"], only["history_dropout"]) == ("finetune", 0.2)


def test_a_model_from_scratch_keeps_the_steps_it_was_measured_with() -> None:
    options = plan("demo", size="tiny", train_tokens=None)["train_options"]
    assert (options["model"], options["batch_tokens"]) == ("tiny", 4096)
    assert [s["name"] for s in options["stages"]] == ["recall", "trunks", "tastes", "finetune"]
    assert not any("history_dropout" in s for s in options["stages"])
