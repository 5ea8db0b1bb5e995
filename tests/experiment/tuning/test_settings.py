import pytest

from avalanche_mgem.experiment import UserError
from avalanche_mgem.experiment.tuning.settings import read_settings, split_words


def test_the_defaults() -> None:
    settings = read_settings([])
    assert (settings.trials, settings.experiences, settings.seeds, settings.first_seed) == (40, 3, 1, 1000)
    assert (settings.sampler, settings.prune, settings.folder, settings.space) == ("tpe", True, None, {})


def test_words_of_hydra_and_of_the_space() -> None:
    words = [
        "tune.trials=7",
        "+tune.experiences=null",
        "tune.dir=a b",
        "tune.space.optimizer.lr=log(0.003,0.3)",
        "tune.space.strategy.memory_strength='[0,0.5]'",
    ]
    settings = read_settings(words)
    assert (settings.trials, settings.experiences, settings.folder) == (7, None, "a b")
    assert settings.space == {"optimizer.lr": "log(0.003,0.3)", "strategy.memory_strength": "[0,0.5]"}


def test_strategies_are_taken_apart() -> None:
    words = split_words(["benchmark=x", "strategy=gem, dmgem", "strategy.num_groups=2", "tune.seeds=2"])
    assert words.strategies == ["gem", "dmgem"]
    assert words.runs == ["benchmark=x", "strategy.num_groups=2"]
    assert split_words(["seed=1"]).strategies == []
    for value in ("gem,,dmgem", "gem,gem", ""):
        with pytest.raises(UserError, match=r"names of strategies, each once$"):
            split_words([f"strategy={value}"])


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("tune.trials=0", r"^tune.trials=0: it must be an integer, at least 1$"),
        ("tune.trials=null", "an integer, at least 1$"),
        ("tune.trials=1.5", "an integer"),
        ("tune.trials=true", "an integer"),
        ("tune.experiences=0", "at least 1 or null$"),
        ("tune.seeds=x", "an integer"),
        ("tune.first_seed=-1", "at least 0$"),
        ("tune.first_seed=4294967296", r"less than 2\*\*32$"),
        ("tune.sampler=tp", r"did you mean 'tpe'\? allowed are grid, random, tpe$"),
        ("tune.prune=1", "true or false$"),
        ("tune.dir=3", "it must be a folder$"),
        ("tune.trails=3", r"no key 'tune.trails'; did you mean 'trials'\?"),
        ("tune.trials=1,2", "one value"),
        ("tune={trials: 3}", "a key below tune"),
    ],
)
def test_wrong_words_are_a_line(word: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        read_settings([word])
