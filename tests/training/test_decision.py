"""Temperature, threshold, calibration: right on what can be computed by hand, careful where there are few messages."""

import numpy as np
import pytest
import torch

from spamlit.training.decision import (
    TARGETS,
    TEMPERATURES,
    Decision,
    brier_score,
    calibration_error,
    check_band,
    choose_threshold,
    decide,
    fit_temperature,
    read_policy,
    reliability,
)


def drawn(n, temperature=1.0, seed=0, shift=0.0):
    """Logits (n, 2) and labels that are as likely as the logits divided by `temperature` say."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 2, generator=generator) * 3 + torch.tensor([shift, 0.0])
    return logits, torch.bernoulli(Decision(temperature).probability(logits), generator=generator).long()


def few(seed, n=12):
    """A few probabilities, some of them equal, and labels."""
    generator = np.random.default_rng(seed)
    probability = torch.tensor(generator.integers(0, 9, n) / 8, dtype=torch.float32)
    return probability, torch.tensor(generator.integers(0, 2, n))


def counts(probability, labels, threshold):
    """Spam found, false positives, spam missed."""
    taken = probability >= threshold
    return tuple(int(each.sum()) for each in (taken & (labels == 1), taken & (labels == 0), ~taken & (labels == 1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_many_messages_is_found_and_calibrates(temperature):
    logits, labels = drawn(20_000, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    probability = Decision(found).probability(logits)
    assert calibration_error(probability, labels) < 0.01
    if temperature != 1:
        assert calibration_error(logits.softmax(-1)[:, 1], labels) > 0.02


@pytest.mark.parametrize("n", [1, 20, 200])
def test_a_separated_validation_does_not_make_certain(n):
    logits, labels = torch.tensor([[4.0, 0.0], [0.0, 4.0]] * n), torch.tensor([0, 1] * n)
    assert 0.4 < fit_temperature(logits, labels) <= 1


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], TEMPERATURES[1]), ([1, 0], 1)])
def test_the_temperature_stays_within_its_bounds_and_at_one_for_no_reason_to_leave_it(labels, expected):
    logits = torch.tensor([[-50.0, 50.0], [50.0, -50.0]])  # all wrong, or all right
    assert fit_temperature(logits, torch.tensor(labels)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("seed", range(30))
def test_no_threshold_is_better_than_the_chosen(seed):
    probability, labels = few(seed)
    tried = [counts(probability, labels, t) for t in np.linspace(0, 1, 81)[:-1]]

    def value(name, hit, alarm, miss):
        return {"f1": 2 * hit / max(2 * hit + alarm + miss, 1), "cost": -(3 * alarm + miss)}[name]

    for name, policy in {"f1": "f1", "cost": {"cost": 3}}.items():
        chosen = counts(probability, labels, choose_threshold(probability, labels, policy).value)
        assert value(name, *chosen) == max(value(name, *each) for each in tried)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", ["precision", "recall", "fpr"])
def test_targets_are_met_with_a_mistake_to_spare_or_said_to_be_missed(seed, name):
    probability, labels = few(seed, n=60)
    target = {"precision": 0.6, "recall": 0.8, "fpr": 0.3}[name]

    def estimate(hit, alarm, miss):
        n_ham = int((labels == 0).sum())
        shares = {"precision": hit / (hit + alarm + 1), "recall": hit / (hit + miss + 1)}
        return shares | {"fpr": (alarm + 1) / (n_ham + 1)}

    def meets(each):
        return estimate(*each)[name] <= target if name == "fpr" else estimate(*each)[name] >= target

    tried = [counts(probability, labels, t) for t in np.linspace(0, 1, 81)[:-1]]
    found = choose_threshold(probability, labels, {name: target})
    chosen = counts(probability, labels, found.value)
    assert found.estimate == pytest.approx(estimate(*chosen)[name])
    assert found.attained == any(meets(each) for each in tried)
    if found.attained:
        assert meets(chosen)
        if name == "recall":
            assert chosen[1] == min(alarm for _, alarm, _ in filter(meets, tried))
        else:
            assert chosen[0] == max(hit for hit, _, _ in filter(meets, tried))
    else:
        best = max if name != "fpr" else min
        assert found.estimate == pytest.approx(best(estimate(*each)[name] for each in tried))


@pytest.mark.parametrize(("policy", "truth"), [({"fpr": 0.02}, 0), ({"recall": 0.95}, 1)])
def test_on_average_over_splits_a_target_is_met(policy, truth):
    """300 validation messages choose; 2,000 others judge. Counting validation's mistakes alone would not do."""
    ((name, target),) = policy.items()
    shares = []
    for seed in range(200):
        logits, labels = drawn(2300, seed=seed, shift=1.0)
        probability = logits.softmax(-1)[:, 1]
        found = choose_threshold(probability[:300], labels[:300], policy)
        assert found.attained
        taken = probability[300:] >= found.value
        shares.append(taken[labels[300:] == truth].float().mean().item())
    assert np.mean(shares) <= target if name == "fpr" else np.mean(shares) >= target


def test_the_threshold_lies_midway_between_scores():
    probability, labels = torch.tensor([0.1, 0.25, 0.75, 0.9]), torch.tensor([0, 0, 1, 1])
    for policy in ("f1", {"cost": 5}, {"recall": 0.6}, {"precision": 0.6}, {"fpr": 0.4}):
        assert choose_threshold(probability, labels, policy).value == 0.5
    assert choose_threshold(probability, labels, "argmax").value == 0.5


@pytest.mark.parametrize(("scores", "expected"), [([0.2, 0.4, 0.6, 0.95], 0.3), ([0.05, 0.4, 0.6, 0.8], 0.7)])
def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken(scores, expected):
    found = choose_threshold(torch.tensor(scores), torch.tensor([0, 1, 0, 1]), {"cost": 1})
    assert found.value == pytest.approx(expected)


@pytest.mark.parametrize("policy", ["f1", {"fpr": 0.5}, {"precision": 0.5}, {"recall": 0.5}, {"cost": 1}])
def test_neighbouring_numbers_are_told_apart(policy):
    """Between them lies no other float32; a threshold that was rounded to the lower one would take both."""
    ham, spam = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)), torch.tensor(1.0)
    probability, labels = torch.stack((ham, spam)), torch.tensor([0, 1])
    found = choose_threshold(probability, labels, policy)
    assert (probability >= found.value).tolist() == [False, True]


@pytest.mark.parametrize("policy", ["f1", *({name: 0.5} for name in TARGETS)])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_class_or_a_difference_that_is_missing_is_no_error(policy, labels, scores):
    found = choose_threshold(torch.tensor(scores), torch.tensor(labels), policy)
    assert 0 <= found.value <= 1


def test_an_unattainable_target_comes_with_the_nearest_threshold():
    probability, labels = torch.tensor([0.2, 0.4, 0.6, 0.9]), torch.tensor([0, 0, 1, 1])
    found = choose_threshold(probability, labels, {"fpr": 0.005})
    assert (found.attained, found.estimate) == (False, pytest.approx(1 / 3))
    assert found.value == pytest.approx(0.5)  # no ham of validation reaches it, all spam does


def test_the_threshold_is_one_for_calibrated_probabilities():
    logits, labels = drawn(2000, temperature=3.0, shift=1.0)
    decision = decide(logits, labels, {"fpr": 0.05}, calibrate=True)
    plain = decide(logits, labels, {"fpr": 0.05}, calibrate=False)
    assert plain.temperature == 1.0
    taken = decision.probability(logits) >= decision.threshold
    assert torch.equal(taken, plain.probability(logits) >= plain.threshold)  # the order of scores is the same
    assert decision.threshold < plain.threshold
    assert decide(logits, labels, "argmax", calibrate=False) == Decision()


def test_true_probabilities_are_the_share_of_spam_in_every_bin():
    logits, labels = drawn(2_000)
    bins = reliability(Decision().probability(logits), labels)
    assert bins.n.tolist() == [200] * 10
    assert bins.share.tolist() == pytest.approx(bins.probability.tolist(), abs=0.1)


def test_fewer_messages_than_bins_are_a_bin_each():
    bins = reliability(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]))
    assert (bins.probability.tolist(), bins.share.tolist(), bins.n.tolist()) == ([0.25, 0.75], [0.0, 1.0], [1, 1])


def test_calibration_error_and_brier_score_do_not_depend_on_the_order_of_rows():
    probability, labels = few(3, n=50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert calibration_error(probability[order], labels[order]) == pytest.approx(calibration_error(probability, labels))
    assert brier_score(probability[order], labels[order]) == pytest.approx(brier_score(probability, labels))
    assert calibration_error(labels.float(), labels) == brier_score(labels.float(), labels) == 0
    assert calibration_error(torch.zeros(50), torch.ones(50)) == brier_score(torch.zeros(50), torch.ones(50)) == 1


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("best", "threshold=best: choose argmax, f1"),
        (0.7, "threshold=0.7: choose argmax"),
        (None, "threshold=None"),
        ({}, "or one of precision, recall, fpr, cost"),
        ({"fpr": 0.1, "recall": 0.9}, "choose argmax"),
        ({"accuracy": 0.9}, "choose argmax"),
        ({"fpr": 0}, "above 0"),
        ({"cost": -1}, "above 0"),
        ({"cost": float("nan")}, "above 0"),
        ({"cost": True}, "above 0"),
        ({"recall": "all"}, "above 0"),
        ({"precision": 1}, "below 1"),
        ({"fpr": 5}, "below 1"),
    ],
)
def test_policies_that_make_no_sense_are_refused(policy, said):
    with pytest.raises(ValueError, match=said):
        read_policy(policy)


@pytest.mark.parametrize(
    "band", [0.5, "0.3,0.7", [0.7, 0.3], [0.5, 0.5], [0.1], [0.1, 0.2, 0.3], [-0.1, 0.5], [True, 1]]
)
def test_bands_that_are_none_are_refused(band):
    with pytest.raises(ValueError, match="unsure="):
        check_band(band)
