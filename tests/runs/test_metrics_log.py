"""metrics.jsonl while it is written."""

import json

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from resnet_jax.runs import metrics_log
from resnet_jax.runs.metrics_log import MetricsLog, follow_metrics
from resnet_jax.runs.workdir import claim, write_result
from small_run import small_config


def test_lines_are_followed_through_stops_until_the_run_is_complete(tmp_path, monkeypatch):
    run, log = tmp_path / "run", []
    result = {"step": 40, "test_error": 0.1}

    def begin():
        claim(run, small_config({"train.iterations": 60}))
        log.append(MetricsLog(run, 0))

    def write(step, **scalars):
        log[-1].write(step, {"train_loss": step / 10, "seconds": len(log), **scalars})

    def cut_short():
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 30, "tr')

    def restart(step):
        log[-1].__exit__()
        log.append(MetricsLog(run, step))

    events = iter(
        [
            lambda: None,  # no workdir
            begin,
            lambda: (write(10), write(20)),
            lambda: write(30),
            lambda: restart(20),  # from the checkpoint of iteration 20
            lambda: write(30),  # as it was, but for the time
            lambda: restart(10),
            lambda: write(20, note=1.0),  # not as it was
            lambda: log[-1].amend(20, {"test_error": 0.5}),
            cut_short,
            lambda: restart(20),
            lambda: write_result(run, result),  # of a shorter run
            lambda: (write(30), write(60)),
            lambda: write_result(run, result | {"step": 60}),
        ]
    )
    monkeypatch.setattr(metrics_log.time, "sleep", lambda seconds: next(events)())
    found = [(line["step"], line.get("note"), line.get("test_error")) for line in follow_metrics(run)]
    assert found == [
        (10, None, None),
        (20, None, None),
        (30, None, None),
        (20, 1.0, None),
        (20, 1.0, 0.5),
        (60, None, None),
    ]
    assert next(events, None) is None
    log[-1].__exit__()
    # Of a complete run all at once.
    assert [line["step"] for line in follow_metrics(run)] == [10, 20, 30, 60]


def test_tensorboard_has_the_speed_of_a_run(run_of_20):
    lines = [json.loads(line) for line in (run_of_20 / "metrics.jsonl").read_text().splitlines()]
    assert {"seconds", "images_per_second"} <= lines[0].keys()
    for line in lines:
        assert abs(line["images_per_second"] * line["seconds"] - 160) < 1e-6
    (events,) = (run_of_20 / "events").iterdir()
    data, found = events.read_bytes(), {}
    while data:  # a record is a length of 8 bytes, a checksum of 4, the event, and a checksum of 4
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        data = data[16 + size :]
    for line in lines:
        speed = found[line["step"], "images_per_second"]
        assert abs(speed / line["images_per_second"] - 1) < 1e-5
