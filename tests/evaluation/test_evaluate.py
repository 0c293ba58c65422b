import json

import numpy as np
import pytest

from resnet_jax.data import sources
from resnet_jax.errors import InputError
from resnet_jax.evaluation.evaluate import evaluate
from resnet_jax.evaluation.trained import load_trained


@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_scores_are_numpys(workdir, logits, split):
    data = getattr(sources.load("digits", validation_images=77), split)
    scores = np.asarray(logits(data.images), np.float64)
    log_probabilities = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wrong = scores.argmax(-1) != data.labels

    result = evaluate(workdir, split)
    assert result["images"] == len(data)
    assert result["error"] == pytest.approx(wrong.mean(), abs=0.1 / len(data))
    assert result["loss"] == pytest.approx(-log_probabilities[np.arange(len(data)), data.labels].mean(), rel=1e-4)
    assert (result["split"], result["step"], result["workdir"]) == (split, 60, str(workdir))
    # Neither nothing nor everything was learned, so that the error says something.
    assert 0.02 < result["error"] < 0.85


@pytest.mark.parametrize("batch_size", [1, 12, 56, 360, 512])
def test_batch_size_makes_no_difference(workdir, batch_size):
    ours, usual = evaluate(workdir, batch_size=batch_size), evaluate(workdir)
    assert ours["images"] == 360
    assert ours["error"] == pytest.approx(usual["error"], abs=1e-6)
    assert ours["loss"] == pytest.approx(usual["loss"], rel=1e-5)


def test_the_runs_own_result_is_the_same(workdir):
    result = json.loads((workdir / "result.json").read_text())
    scored = evaluate(workdir)
    assert scored["error"] == pytest.approx(result["test_error"], abs=1e-6)
    assert scored["loss"] == pytest.approx(result["test_loss"], rel=1e-5)


def test_what_cannot_be_evaluated(workdir, tmp_path):
    with pytest.raises(InputError, match="no split 'dev' in this run's data: it has test, train, validation"):
        evaluate(workdir, "dev")
    for batch_size in (0, -8):
        with pytest.raises(InputError, match=f"batch size is {batch_size}, but it must be at least 1"):
            evaluate(workdir, batch_size=batch_size)
    with pytest.raises(InputError, match="is not the workdir of a run"):
        evaluate(tmp_path)
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_trained(tmp_path)
