"""The table of a quality's scores: samples, real images, and how many times as far the samples are."""

from collections.abc import Sequence

from tinyddpm.evaluation.quality import CONFIDENT, Quality


def rows(score: Quality) -> list[tuple[str, str, str, str]]:
    """What is measured, of samples, of real images, and how many times as far the samples are, below such a head."""
    s, r, shares, real = score.samples, score.real, score.sample_shares, score.real_shares
    ratio = "–" if score.frechet_ratio is None else f"{score.frechet_ratio:.2f} ×"
    return [
        ("", "samples", "real", "ratio"),
        ("Fréchet distance", number(s.frechet, ".4f"), number(r.frechet, ".4f"), ratio),
        ("kernel distance × 1000", kernel(s.kernel, s.kernel_error), kernel(r.kernel, r.kernel_error), ""),
        ("precision", number(s.precision, ".3f"), number(r.precision, ".3f"), ""),
        ("recall", number(s.recall, ".3f"), number(r.recall, ".3f"), ""),
        (f"recognised (≥ {CONFIDENT:g})", f"{shares.recognised:.1%}", f"{real.recognised:.1%}", ""),
        ("class as asked", number(shares.accuracy, ".1%"), number(real.accuracy, ".1%"), ""),
        ("share of a class", spread(shares.balance), spread(real.balance), ""),
    ]


def about_counts(score: Quality, about: str) -> str:
    """Which images were compared. about: how the samples were drawn."""
    n, real, draws = score.samples.images, score.real_shares.images, score.real_draws
    notes = [f"{len(draws)} draws, {min(draws):.4f} to {max(draws):.4f}"] if len(draws) > 1 else []
    notes += [] if score.frechet_bias is None else [f"{score.frechet_bias:.3g} of it comes of their number"]
    noted = f" (Fréchet: {'; '.join(notes)})" if notes else ""
    return f"{n:,} samples ({about}) and as many training images{noted}, both against {real:,} test images"


def table(score: Quality, about: str, names: Sequence[str] | None = None) -> str:
    """The scores in lines. about: how the samples were drawn. names: of the classes."""
    shares = score.sample_shares
    names = names or [str(label) for label in range(len(shares.balance))]
    balance = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares.balance, strict=False))
    lines = [f"{a:24}{b:>16}{c:>16}   {d}".rstrip() for a, b, c, d in rows(score)]
    return "\n".join(
        [
            about_counts(score, about),
            "(shares of real images are those of the test images):",
            *lines,
            f"classes: {balance}",
        ]
    )


def number(value: float | None, form: str) -> str:
    """A score, or a dash where there were too few images for it."""
    return "–" if value is None else format(value, form)


def kernel(value: float | None, error: float | None) -> str:
    """A kernel distance and its standard error, in thousandths."""
    return "–" if value is None or error is None else f"{1000 * value:.2f} ± {1000 * error:.2f}"


def spread(balance: Sequence[float]) -> str:
    """The rarest and the most frequent class."""
    return f"{min(balance):.1%} to {max(balance):.1%}"
