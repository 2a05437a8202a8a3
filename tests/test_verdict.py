"The verdict of a report, on results of every kind that are made up: what it says, and that the intervals bear it out."
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from simseg.compare import compare_arms
from simseg.statistics import side_of_zero
from simseg.study import BASE, arm_name, check_study
from simseg.verdict import verdict

STUDY = {
    "name": "made_up", "image_size": 32, "label_ratios": [0.5, 0.2], "seeds": [0, 1, 2],
    "encoders": {"scratch": None, "cats": {"dataset": "synthetic"}, "dogs": {"dataset": "synthetic_objects"}},
    "recipes": {"augmented": {"augment": True}}, "unet": {"dataset": "synthetic"},
}


def made_up(gains: dict, seeds: int = 3, images: int = 200, noise: float = 0.002):
    "Counts and results of a study: scratch at 0.6, every other arm above it by its gain."
    study = check_study({**STUDY, "seeds": list(range(seeds))})
    rng = np.random.default_rng(0)
    counts = {}
    rows = []
    for (encoder, recipe, ratio), gain in gains.items():
        level = 0.6 + gain + rng.normal(0, noise, seeds)
        hits = rng.normal(level[:, None], 0.02, (seeds, images)).clip(0.01, 0.99) * 1000
        counts[arm_name(encoder, recipe), ratio] = (list(range(seeds)), np.stack([hits, np.full_like(hits, 1000)], 2))
        for seed in range(seeds):
            rows.append({"encoder": encoder, "recipe": recipe, "label_ratio": ratio, "seed": seed,
                         "iou": hits[seed].sum() / images / 1000, "n_images": images})
    return study, pd.DataFrame(rows), compare_arms(study, counts)


def all_at(cats: float, dogs: float = 0.0, augmented: float = 0.0, **how):
    "The same gains at both ratios and in both recipes."
    gains = {}
    for recipe, ratio in itertools.product([BASE, "augmented"], [0.5, 0.2]):
        alone = augmented if recipe != BASE else 0.0
        gains |= {("scratch", recipe, ratio): alone, ("cats", recipe, ratio): cats + alone}
        gains |= {("dogs", recipe, ratio): dogs + alone}
    return made_up(gains, **how)


ALONE = {(encoder, BASE, ratio): 0.1 if (encoder, ratio) == ("cats", 0.2) else 0.0
         for encoder, ratio in itertools.product(["scratch", "cats", "dogs"], [0.5, 0.2])}
KINDS = {
    "one alone": made_up(ALONE),
    "all better": all_at(0.1, 0.1),
    "all worse": all_at(-0.1, -0.1),
    "one of each": all_at(0.1, -0.1),
    "none": all_at(0.0),
    "one seed": all_at(0.1, 0.1, seeds=1),
    "one seed, cats alone": all_at(0.1, 0.0, seeds=1),
    "one seed, dogs alone": all_at(0.0, 0.1, seeds=1),
    "one seed, nothing": all_at(0.0, seeds=1, noise=0.0),
    "a recipe that helps": all_at(0.0, augmented=0.1),
    "noisy seeds": all_at(0.05, noise=0.1),
    "eight test images": all_at(0.02, images=8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_never_says_more_than_the_intervals(kind):
    "Each figure that is called better or worse is one whose two intervals leave out zero; three sentences at most."
    study, results, comparisons = KINDS[kind]
    sentences = verdict(study, results, comparisons)
    assert 1 <= len(sentences) <= 3
    for sentence in sentences:
        assert sentence.endswith(".") and "nan" not in sentence
        named = r"(better|worse) (?:than \w+ |in \d of \d comparisons, most on \w+ )?at \d+% labels[:,] ([+-]\d\.\d+)"
        for word, figure in re.findall(rf"(?<!looks ){named}", sentence):
            row = comparisons.iloc[(comparisons["difference"] - float(figure)).abs().argmin()]
            sides = {side_of_zero((row[f"{of}_low"], row[f"{of}_high"])) for of in ("images", "seeds")}
            assert sides == {1 if row["difference"] > 0 else -1}, sentence
            assert (word == "better") == (float(figure) > 0), sentence
        for word, n, of in re.findall(r"(better|worse) in (\d) of (\d)", sentence):
            against = comparisons[(comparisons["second"] == "scratch") & (comparisons["recipe"] == sentence.split()[2])]
            assert (against["verdict"] == {"better": "gain", "worse": "loss"}[word]).sum() == int(n), sentence
            assert len(against) == int(of), sentence


@pytest.mark.parametrize("kind, said", [
    ("all better", r"base recipe, pretraining is better in 4 of 4 comparisons, most on \w+ at \d+% labels: \+0\.1"),
    ("all worse", r"pretraining is worse in 4 of 4 comparisons, most on \w+ at \d+% labels: -0\.1"),
    ("one of each", r"is better in 2 of 4 .*, and pretraining is worse in 2 of 4 comparisons, most on dogs"),
    ("one of each", r"What the unlabelled images show matters: with the \w+ recipe, cats is better than dogs"),
    ("one alone", r"on cats is better at 20% labels: .*; among 4 comparisons, so few may be chance"),
    ("one alone", r"images show may matter: with the base recipe, cats is better than dogs at 20% labels"),
    ("all better", r"in 4 of 4 comparisons, most on \w+ at \d+% labels: [^;]*3 seeds\)\."),
    ("none", r"With the base recipe, no difference is shown; the largest of 4 is"),
    ("one seed", r"looks better at \d+% labels and needs more seeds: .*one seed"),
    ("one seed, cats alone", r"matters .* more seeds: with .* recipe, cats looks better than dogs at \d+% labels, \+"),
    ("one seed, dogs alone", r"recipe, dogs looks better than cats at \d+% labels, \+0\.\d+ IoU \(95 %: \+"),
    ("one seed, nothing", r"no difference is shown"),
    ("a recipe that helps", r"augmented recipe, no difference is shown.*; the recipe alone is better by 0\.\d+ at"),
    ("noisy seeds", r"no difference is shown"),
])
def test_what_a_verdict_says(kind, said):
    assert re.search(said, " ".join(verdict(*KINDS[kind])))


def test_a_hole_is_no_comparison():
    study, results, comparisons = KINDS["none"]
    nothing = comparisons[comparisons["first"] == "nobody"]
    assert verdict(study, results, nothing) == ["Nothing can be said yet: no pretrained encoder stands beside scratch."]


def test_a_gain_is_worth_labels_where_it_holds():
    rows = itertools.product(["dogs", "cats"], [BASE, "augmented"], [0.5, 0.2])
    labels = pd.DataFrame(rows, columns=["encoder", "recipe", "label_ratio"])
    labels = labels.assign(equal_ratio=0.31, low=0.28, high=0.5, lowest=0.2, highest=0.5)
    worth = "3 seeds), as good as scratch with 31% (95 % over test images: 28% or more); among 4 comparisons"
    assert worth in verdict(*KINDS["one alone"], labels=labels)[0]
    assert "as good as" not in " ".join(verdict(*KINDS["all worse"], labels=labels))


def test_what_several_seeds_say_stands_beside_the_hint_of_one():
    study, results, several = KINDS["noisy seeds"]
    one = KINDS["one seed, cats alone"][2]
    mixed = pd.concat([several[several["label_ratio"] == 0.2], one[one["label_ratio"] == 0.5]], ignore_index=True)
    assert set(mixed["verdict"]) == {"open", "one seed"}
    base, augmented, domain = verdict(study, results, mixed)
    beside = r"more seeds: .*one seed\); with several seeds, in (\d) of \d comparisons, no difference is shown"
    assert re.search(beside, base)[1] == re.search(beside, augmented)[1] == "2"  # cats and dogs, at 20 %
    assert re.search(beside, domain)[1] == "2"  # in either recipe
