"""The table of scores: every figure in its place, and dashes where there is none."""

from dataclasses import replace

from tinyddpm.evaluation.quality import Distances, Quality, Shares
from tinyddpm.reporting.score_table import table

SCORE = Quality(
    Distances(10_000, 1.5, 0.0021, 0.0003, 0.91, 0.82),
    Distances(10_000, 0.5, -0.0001, 0.0002, 0.93, 0.94),
    (0.45, 0.6, 0.45),
    0.125,
    Shares(10_000, 0.951, 0.985, (0.4, 0.6)),
    Shares(9_000, 0.977, 0.993, (0.45, 0.55)),
)


def test_every_score_is_there() -> None:
    assert table(SCORE, "ddpm, 50 steps", ("cat", "dog")).splitlines() == [
        "10,000 samples (ddpm, 50 steps) and as many training images (Fréchet: 3 draws, 0.4500 to 0.6000; "
        "0.125 of it comes of their number), both against 9,000 test images",
        "(shares of real images are those of the test images):",
        "                                 samples            real   ratio",
        "Fréchet distance                  1.5000          0.5000   3.00 ×",
        "kernel distance × 1000       2.10 ± 0.30    -0.10 ± 0.20",
        "precision                          0.910           0.930",
        "recall                             0.820           0.940",
        "recognised (≥ 0.9)                 95.1%           97.7%",
        "class as asked                     98.5%           99.3%",
        "share of a class          40.0% to 60.0%  45.0% to 55.0%",
        "classes: cat 40.0%, dog 60.0%",
    ]


def test_what_is_not_there_is_a_dash() -> None:
    few = replace(
        SCORE,
        samples=Distances(3, None, None, None, None, None),
        real_draws=(0.5,),
        frechet_bias=None,
        sample_shares=replace(SCORE.sample_shares, accuracy=None),
    )
    lines = table(few, "few").splitlines()
    assert lines[0] == "3 samples (few) and as many training images, both against 9,000 test images"
    assert lines[3] == "Fréchet distance                       –          0.5000   –"
    assert lines[8] == "class as asked                         –           99.3%"
    assert lines[-1] == "classes: 0 40.0%, 1 60.0%"
