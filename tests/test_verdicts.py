"""What is said of who is more accurate: how often it is wrong, what it takes for a winner, and in which words."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from experiments.common.records import packed
from experiments.common.statistics import Difference, bootstrap_over_images, choices, compare, holm
from experiments.compare import figures, verdict
from experiments.compare.advice import advice_of
from experiments.compare.pairs import Pair, compare_pairs
from experiments.compare.styles import COLORS, styles_of
from experiments.compare.suite import suite_of

SUITE = {"name": "small", "title": "S", "datasets": ["digits"], "seeds": [0, 1], "recipe": {}}


def suite_with(entries, **changes):
    return suite_of({"suite": SUITE | {"entries": entries} | changes})


def answers(generator, seeds, images, seed_spread, shift=0.0):
    """Right and wrong answers of two models: images are hard for both or for one, seeds are better or worse.

    ``seed_spread`` is the standard deviation of an accuracy over seeds, beyond that by chance, for each model.
    """
    hardness = generator.random(images)
    sides = []
    for count, spread, gain in zip(seeds, seed_spread, (shift, 0.0), strict=True):
        own = 0.3 * (generator.random(images) - 0.5)
        skill = spread * generator.standard_normal((count, 1)) + gain
        sides.append(generator.random((count, images)) < 0.65 + 0.4 * (hardness - 0.5) + own + skill)
    return sides


class TestCalibration:
    """Simulated: of models that are equals, a winner is named in no more than one of twenty comparisons."""

    REPETITIONS = 300
    LIMIT = 0.05 + 2.4 * (0.05 * 0.95 / 300) ** 0.5  # which chance exceeds in one of a hundred

    def found(self, seeds, images, spread, shift=0.0):
        generator = np.random.default_rng(sum(seeds) + images)
        return [compare(*answers(generator, seeds, images, spread, shift)) for _ in range(self.REPETITIONS)]

    @pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (2, 5)])
    @pytest.mark.parametrize("spread", [(0.0, 0.0), (0.05, 0.05), (0.01, 0.05), (0.05, 0.02)])
    def test_between_equals_winners_are_as_rare_as_promised(self, seeds, spread):
        found = self.found(seeds, 200, spread)
        assert np.mean([one.verdict != "neither" for one in found]) < self.LIMIT
        assert np.mean([one.low <= 0 <= one.high for one in found]) > 1 - self.LIMIT

    def test_intervals_hold_a_difference_that_there_is(self):
        found = self.found((3, 3), 300, (0.01, 0.02), shift=0.05)
        assert np.mean([one.low <= 0.05 <= one.high for one in found]) > 1 - self.LIMIT

    def test_the_detectable_difference_is_found_about_as_often_as_is_said(self):
        typical = np.median([one.detectable for one in self.found((5, 5), 300, (0.02, 0.02))])
        found = self.found((5, 5), 300, (0.02, 0.02), shift=typical)
        assert 0.65 < np.mean([one.verdict == "first" for one in found]) < 0.95

    def test_several_pairs_of_equals_have_no_more_winners_than_one(self):
        generator = np.random.default_rng(0)
        named = 0
        for _ in range(100):
            found = [compare(*answers(generator, (3, 3), 200, (0.02, 0.02))) for _ in range(8)]
            named += any(p <= 0.05 for p in holm([one.p for one in found]))
        assert named <= 11

    def test_the_best_of_many_equals_is_not_said_to_lead(self):
        generator = np.random.default_rng(0)
        luck, named = 0, 0
        for _ in range(200):
            seeds = generator.standard_normal((11, 5, 1))  # ten models, and one that they are held against
            *first, second = generator.random((11, 5, 200)) < 0.7 + 0.05 * seeds
            p = compare(max(first, key=np.mean), second).p
            luck, named = luck + (p <= 0.05), named + (p * choices(10, 1) <= 0.05)
        assert named / 200 < 0.05 + 2.4 * (0.05 * 0.95 / 200) ** 0.5 < luck / 200


def test_a_clear_difference_is_found_and_has_its_sign():
    generator = np.random.default_rng(0)
    good, bad = generator.random((3, 2000)) < 0.95, generator.random((4, 2000)) < 0.9
    found = compare(good, bad)
    assert found.mean == pytest.approx(good.mean() - bad.mean())
    assert found.low < found.mean < found.high
    assert found.verdict == "first"
    assert found.p < 0.01
    turned = compare(bad, good)
    assert turned.verdict == "second"
    assert (turned.low, turned.p) == (pytest.approx(-found.high), pytest.approx(found.p))


def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero():
    first, second = answers(np.random.default_rng(5), (4, 4), 400, (0.02, 0.02), 0.04)
    p = compare(first, second).p
    at = compare(first, second, level=p)
    assert 0 < p < 1
    # Of a level, ``detectable`` is the interval's half width and what power takes.
    half = at.detectable - compare(first, second, level=1 - 1e-12).detectable
    assert half == pytest.approx(abs(at.mean), rel=1e-3)


def test_with_many_seeds_it_is_the_bootstrap_over_seeds_and_images():
    generator = np.random.default_rng(1)
    first, second = answers(generator, (40, 40), 300, (0.05, 0.05), 0.02)
    found = compare(first, second)
    draws = []
    for _ in range(800):
        images = generator.integers(300, size=300)
        sides = [side[generator.integers(40, size=40)][:, images].mean() for side in (first, second)]
        draws.append(sides[0] - sides[1])
    low, high = np.percentile(draws, [2.5, 97.5])
    assert found.high - found.low == pytest.approx(high - low, rel=0.12)


def test_images_alone_have_the_paired_bootstrap():
    generator = np.random.default_rng(2)
    first = generator.random(500)
    second = first - 0.01 + 0.02 * generator.standard_normal(500)
    found = bootstrap_over_images(first, second, resamples=2000)
    half = 1.96 * (first - second).std() / 500**0.5
    assert found.mean == pytest.approx((first - second).mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_one_seed_names_no_winner_however_clear_it_looks():
    found = compare(np.ones((1, 1000), dtype=bool), np.arange(1000)[None] % 2 == 0)
    assert (found.verdict, found.p, found.detectable) == ("neither", None, None)
    assert found.low > 0.4
    assert compare(np.ones((3, 50), dtype=bool), np.zeros((1, 50), dtype=bool)).p is None


def test_equal_models_cannot_be_told_apart():
    right = np.random.default_rng(1).random((3, 500)) < 0.8
    assert compare(right, right).verdict == "neither"
    assert compare(right, right).p == 1.0
    assert compare(np.ones((2, 9), dtype=bool), np.ones((2, 9), dtype=bool)).p == 1.0


def test_more_seeds_that_disagree_widen_the_interval():
    steady = np.tile(np.random.default_rng(3).random(1000) < 0.9, (3, 1))
    shaky = np.stack([np.random.default_rng(4).random(1000) < rate for rate in (0.8, 0.9, 1.0)])
    narrow, wide = (compare(one, steady) for one in (steady, shaky))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def run_of(name, right, seed, parameters=9, seconds=1.0, part="test"):
    history = {"epoch": [1], "epoch_seconds": [seconds]}
    run = {"dataset": "digits", "entry": name, "seed": seed, "accuracy": right.mean(), "val_accuracy": right.mean()}
    counted = {"confusion": [[len(right), 0], [0, 0]]} if part == "test" else {"val_images": len(right)}
    costs = {"parameters": parameters, "training_seconds": seconds, "history": history}
    return run | counted | costs | {f"{part}_correct": packed(torch.tensor(right))}


def runs_with(rates, seeds=3, seconds=None, part="test"):
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            run_of(name, generator.random(2000) < rate, seed, seconds=(seconds or {}).get(name, 1.0), part=part)
            for name, rate in rates.items()
            for seed in range(seeds)
        ]
    )


KAN_CNN = [{"name": "KAN", "model": "kan_vgg"}, {"name": "CNN", "model": "vgg"}]


class TestPairs:
    def test_what_was_equal_is_named_with_what_was_not(self):
        runs = runs_with({"KAN": 0.95, "CNN": 0.9}, seconds={"KAN": 1.75})
        [pair] = compare_pairs(suite_with(KAN_CNN), runs)
        assert pair.sentence().startswith(
            "On digits, at equal parameters, KAN with 1.8 times the training time: **KAN beats CNN** by "
        )
        [equal] = compare_pairs(suite_with(KAN_CNN), runs_with({"KAN": 0.9, "CNN": 0.95}))
        assert equal.sentence().startswith("On digits, at equal parameters and training time: **CNN beats KAN** by ")
        assert "95 % interval" in equal.sentence()
        assert ", p " in equal.sentence()

    def test_a_suite_judged_on_validation_has_pairs_if_answers_are_known(self):
        suite = suite_with(KAN_CNN, test=False)
        [pair] = compare_pairs(suite, runs_with({"KAN": 0.95, "CNN": 0.9}, part="val"))
        assert pair.verdict == "first"
        assert compare_pairs(suite, runs_with({"KAN": 0.95, "CNN": 0.9})) == []

    def test_several_pairs_are_corrected_and_losses_come_first(self):
        names = [f"KAN {number}" for number in range(4)]
        entries = [*({"name": name, "model": "kan_vgg"} for name in names), KAN_CNN[1]]
        rates = dict(zip(names, (0.95, 0.9, 0.9, 0.85), strict=True)) | {"CNN": 0.9}
        found = compare_pairs(suite_with(entries), runs_with(rates))
        assert found[0].first == "KAN 3"
        assert found[-1].first == "KAN 0"
        for pair in found:
            assert pair.pairs == 4
            assert pair.p >= pair.difference.p
            assert ", with 4 pairs " in pair.sentence()

    def test_one_seed_decides_nothing(self):
        suite, runs = suite_with(KAN_CNN), runs_with({"KAN": 0.95, "CNN": 0.9}, seeds=1)
        [pair] = compare_pairs(suite, runs)
        assert "one seed decides nothing" in pair.sentence()
        assert pair.verdict == "neither"
        [line] = advice_of(suite, runs, [pair])
        assert line == "To act on it: on digits, one seed decides nothing between KAN and CNN: run at least 3."

    def test_models_that_are_as_accurate_are_not_said_to_lead(self):
        pair = Pair("digits", "KAN", "CNN", 3, Difference(0.0, -0.01, 0.01, 1.0, 0.02), 1.0)
        assert "cannot be told apart: both are as accurate (95 %" in pair.sentence()


def test_two_seeds_that_find_nothing_are_no_reason_to_take_either():
    suite, runs = suite_with(KAN_CNN), runs_with({"KAN": 0.9, "CNN": 0.9}, seeds=2)
    [line] = advice_of(suite, runs, compare_pairs(suite, runs))
    assert line.startswith("To act on it: on digits, 2 seeds find no difference between KAN and CNN (one of ")


@pytest.mark.parametrize(
    ("kan", "seconds", "expected"),
    [
        (0.85, 2.0, "take CNN: it is more accurate than KAN, the best KAN, which takes 2.0 times the training time."),
        (0.9, 2.0, "take CNN: KAN, the best KAN, takes 2.0 times the training time, and no gain was found (one of "),
        (0.9, 1.0, "take either: KAN and CNN are as accurate as can be told (a difference of "),
        (
            0.95,
            2.0,
            "points more than CNN are worth 2.0 times the training time; whether CNN does as well in that time",
        ),
        (0.95, 1.0, "points more than CNN, at equal training time."),
        (0.9, 0.5, "take KAN: it takes 0.50 times the training time of CNN, and no loss was found (one of "),
    ],
)
def test_the_advice_is_what_the_figures_say(kan, seconds, expected):
    suite, runs = suite_with(KAN_CNN), runs_with({"KAN": kan, "CNN": 0.9}, seconds={"KAN": seconds})
    [line] = advice_of(suite, runs, compare_pairs(suite, runs))
    assert expected in line


def test_who_is_best_of_many_must_lead_by_more():
    names = [f"KAN {number}" for number in range(9)]
    entries = [*({"name": name, "model": "kan_vgg", "against": []} for name in names), KAN_CNN[1]]
    rates = dict.fromkeys(names, 0.85) | {"KAN 0": 0.917, "CNN": 0.905}
    suite, runs = suite_with(entries), runs_with(rates)
    [pair] = compare_pairs(suite_with(KAN_CNN), runs.replace("KAN 0", "KAN"))
    assert pair.verdict == "first"
    assert pair.p > 0.05 / 5
    [line] = advice_of(suite, runs, [])
    assert "take either: KAN 0 and CNN are as accurate as can be told" in line
    [line] = advice_of(suite, runs_with(rates | {"KAN 0": 0.99}), [])
    assert "take KAN 0: " in line


def test_the_verdict_tells_losses_first_and_how_small_a_difference_could_be_seen():
    entries = [{"name": "good", "model": "kan_vgg"}, {"name": "bad", "model": "kan_vgg"}, KAN_CNN[1]]
    suite, runs = suite_with(entries), runs_with({"good": 0.95, "bad": 0.8, "CNN": 0.9})
    rows = pd.DataFrame(
        [{"data": "digits", "entry": name, "s/epoch": "1.0", "seeds": 3} for name in runs["entry"].unique()]
    )
    lines = verdict.verdict_of(suite, runs, rows, compare_pairs(suite, runs))
    assert lines[0].startswith("To act on it: on digits, take good: ")
    assert lines[1].startswith("The CNN wins 1 of 2 comparisons: bad against CNN on digits (-")
    assert lines[2].startswith("The KAN wins 1 of 2: good against CNN on digits (+")
    assert "at equal parameters and training time" in lines[2]
    [power] = [line for line in lines if "four times in five" in line]
    assert power.startswith("On digits, 3 seeds find a difference of ")


def test_a_verdict_on_unequal_sizes_says_so():
    sizes = {"KAN small": (300, 0.8), "KAN big": (900, 0.9), "CNN": (100, 0.7), "CNN big": (800, 0.95)}
    runs = pd.DataFrame(
        [{"dataset": "digits", "entry": name, "parameters": n, "accuracy": a} for name, (n, a) in sizes.items()]
    )
    pairs = [Pair("digits", name, "CNN", 1, None) for name in ("KAN small", "KAN big")]
    [line] = verdict.sizes_of(runs, pairs, {"CNN", "CNN big"})
    assert "3.0 to 9.0 times" in line
    assert "1 of 2 KANs" in line
    assert line.endswith("(CNN big, 800 parameters, 95.00 %).")
    equal = runs.assign(parameters=[300, 300, 290, 800])
    assert verdict.sizes_of(equal, pairs, {"CNN", "CNN big"}) == []


def test_only_a_kan_against_a_cnn_counts_as_a_win_of_either():
    names, models = ("KAN", "CNN", "CNN big"), ("kan_vgg", "vgg", "vgg")
    entries = [{"name": n, "model": m, "published": {}} for n, m in zip(names, models, strict=True)]
    history = {"epoch": [1], "epoch_seconds": [1.0]}
    runs = pd.DataFrame(
        [
            {"dataset": "digits", "entry": name, "accuracy": 0.9, "val_accuracy": 0.9, "parameters": 9}
            | {"history": history}
            for name in names
        ]
    )
    rows = pd.DataFrame([{"data": "digits", "entry": name, "s/epoch": "1.0", "seeds": 3} for name in names])
    win = Difference(0.05, 0.04, 0.06, 0.01, 0.02)
    pairs = [Pair("digits", "KAN", "CNN", 3, win, 0.01), Pair("digits", "CNN big", "CNN", 3, win, 0.01)]
    lines = verdict.verdict_of(suite_with(entries), runs, rows, pairs)
    assert lines[1].startswith("The KAN wins 1 of 1: KAN against CNN on digits (+5.00 points")
    assert lines[2].startswith("On digits: **CNN big beats CNN** by 5.00 points")


def test_wins_over_a_cnn_short_of_its_published_accuracy_are_qualified():
    accuracies = {"KAN": 0.9, "CNN": 0.85}
    runs = pd.DataFrame([{"dataset": "digits", "entry": name, "accuracy": a} for name, a in accuracies.items()])
    difference = Difference(0.05, 0.04, 0.06, 0.01, 0.02)
    pairs = [Pair("digits", "KAN", "CNN", 3, difference, 0.01)]

    def lines(published):
        entries = [
            {"name": "KAN", "model": "kan_vgg"},
            {"name": "CNN", "model": "vgg", "published": {"accuracy": published}},
        ]
        return verdict.published_of(suite_with(entries), runs, pairs)

    short, qualified = lines(86.0)
    assert "CNN (-1.00 points)" in short
    assert "wins" in qualified
    assert len(lines(84.0)) == 1
    assert len(lines(85.0)) == 1  # though the mean of floats may be a little less


def test_an_entry_keeps_a_colour_that_can_be_seen_on_white():
    names = [f"entry {number}" for number in range(20)]
    found = styles_of(suite_with([{"name": name, "model": "vgg"} for name in names]))
    assert len({(style.color, style.marker) for style in found.values()}) == len(names)
    for color in COLORS:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)
        assert 1.05 / (luminance + 0.05) >= 3


def test_the_picture_of_differences_has_a_row_a_pair_with_losses_as_visible_as_wins():
    rates = {"good": 0.95, "bad": 0.8, "CNN": 0.9}
    entries = [*({"name": name, "model": "kan_vgg"} for name in ("good", "bad")), KAN_CNN[1]]
    suite = suite_with(entries)
    axis, *_ = figures.draw_differences(compare_pairs(suite, runs_with(rates)), suite.plain).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bad − CNN", "good − CNN"]
    low, high = axis.get_xlim()
    assert low == -high
    assert {text.get_text() for text in axis.texts} == {"← CNN more accurate", "KAN more accurate →"}


def test_models_that_answer_alike_have_a_picture_too():
    right = np.arange(50) % 2 == 0
    runs = pd.DataFrame([run_of(name, right, seed) for name in ("KAN", "CNN") for seed in (0, 1)])
    figure = figures.draw_differences(compare_pairs(suite_with(KAN_CNN), runs), {"CNN"})
    low, high = figure.axes[0].get_xlim()
    assert low == -high < 0


def test_costs_in_which_all_are_equal_are_not_drawn():
    runs = runs_with({"KAN": 0.95, "CNN": 0.9}, seconds={"KAN": 2.0})
    assert figures.costs_of(runs) == (["training_seconds"], ["parameters"])
