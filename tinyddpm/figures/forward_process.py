"""What noise does to an image, and how fast: the schedules compared, and one image destroyed under two of them."""

import numpy as np

from tinyddpm import data
from tinyddpm.data import Dataset
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import NAMES, Schedule
from tinyddpm.figures import style
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.workshop import Workshop

T = 1000
# Ten steps from the first to the last
STEPS = 10
# Half of the image's variance is noise: where signal-to-noise is 1
EVEN = 0.5


def schedules(workshop: Workshop) -> list[Plate]:
    """beta, alpha_bar and signal-to-noise ratio of every schedule over t."""
    named = compared_schedules()
    figure = style.new_figure(3.6)
    panels = figure.subplots(1, 3)
    t = np.arange(T)
    for number, (name, schedule) in enumerate(named.items()):
        curves = schedule.betas, schedule.alpha_bars, schedule.snr
        for axes, curve in zip(panels, curves, strict=True):
            # A ratio of 0, pure noise, has no place on a logarithmic axis
            axes.plot(t, np.where(curve > 0, curve, np.nan), label=name, **style.line(number))
    panels[0].set(title="beta", xlabel="timestep t", ylabel="variance added", yscale="log")
    panels[1].set(title="alpha_bar", xlabel="timestep t", ylabel="share of the image's variance left")
    panels[2].set(title="signal to noise", xlabel="timestep t", ylabel="alpha_bar / (1 - alpha_bar)", yscale="log")
    panels[2].axhline(1, color=style.GREY, linewidth=0.8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), columnspacing=1.2)
    rows = [
        (name, step, float(s.betas[step]), float(s.alpha_bars[step]), float(s.snr[step]))
        for name, s in named.items()
        for step in range(T)
    ]
    halves = {name: int(np.argmax(s.alpha_bars < EVEN)) for name, s in named.items()}
    ends = {name: float(s.alpha_bars[-1]) for name, s in named.items()}
    caption = (
        f"The variance schedules at T = {T}. Linear destroys the image early and spends many steps on what is noise "
        "already; cosine and sigmoid spread the loss of signal evenly; quadratic is in between. "
        f"Signal and noise are even (grey) at {listed({name: f't = {half}' for name, half in halves.items()})}; at "
        f"the end alpha_bar is {listed({name: f'{end:.2g}' for name, end in ends.items()})}."
    )
    header = ("schedule", "t", "beta", "alpha_bar", "snr")
    return [Plate("schedules", style.to_png(figure), header, rows, caption)]


def compared_schedules() -> dict[str, Schedule]:
    """Every schedule by name, and linear rescaled so that its last step is noise alone (Lin et al. 2024)."""
    named = {name: Schedule.by_name(name, T) for name in NAMES}
    return named | {"linear to zero SNR": named["linear"].rescaled_to_zero_terminal_snr()}


def listed(values: dict[str, str]) -> str:
    """The values, each followed by its name: "t = 346 for linear, t = 496 for cosine"."""
    return ", ".join(f"{value} for {name}" for name, value in values.items())


def destruction(workshop: Workshop) -> list[Plate]:
    """One image under the linear and the cosine schedule, side by side in ten steps."""
    dataset = workshop.dataset("mnist")
    # A seven: straight strokes, which the eye follows far into the noise
    number = 0 if dataset.labels is None else int(np.argmax(dataset.labels == 7))
    images, rows = destroyed(dataset, number)
    figure = style.new_figure(2.6)
    axes = figure.add_subplot()
    style.show_images(axes, images, STEPS)
    height, width = images.shape[1:3]
    style.label_rows(axes, ["linear", "cosine"], height)
    style.label_columns(axes, [f"t = {row[1]}" for row in rows[:STEPS]], width, size=8.5)
    for column, row in enumerate(rows):
        y = 2 * (height + 2) + 4 + column // STEPS * 0.28 * height
        axes.text(2 + (column % STEPS + 0.5) * (width + 2), y, f"{row[2]:.2g}", ha="center", va="top", size=8.5)
    for number, name in enumerate(("linear", "cosine")):
        y = 2 * (height + 2) + 4 + number * 0.28 * height
        axes.text(-4, y, f"alpha_bar, {name}", ha="right", va="top", size=8.5)
    gone = {name: next((row[1] for row in rows if row[0] == name and row[4] < 0.25), T - 1) for name in NAMES[:2]}
    caption = (
        f"One image of {dataset.name} destroyed in {STEPS} steps (Ho et al. 2020, eq. 4), with the same noise. "
        "Under the linear schedule the second half is noise to the eye; under cosine the outline lasts longer. "
        f"The correlation with the clean image first falls below 0.25 at t = {gone['linear']} "
        f"under linear and at t = {gone['cosine']} under cosine, of the steps shown.{workshop.said(dataset)}"
    )
    header = ("schedule", "t", "alpha_bar", "snr", "correlation")
    return [Plate("destruction", style.to_png(figure), header, rows, caption)]


def destroyed(dataset: Dataset, number: int) -> tuple[np.ndarray, list[tuple[str, int, float, float, float]]]:
    """The image of that number in ten steps under linear, then under cosine: (20, H, W, C) uint8, and a row for each.

    A row: schedule, t, alpha_bar, signal-to-noise ratio, correlation with the clean image.
    """
    x0 = data.to_unit(dataset.images[number : number + 1])
    noise = np.random.default_rng(0).standard_normal(x0.shape, dtype=np.float32)
    images, rows = [], []
    for schedule in (Schedule.linear(T), Schedule.cosine(T)):
        diffusion = Diffusion(schedule)
        for t in np.linspace(0, T - 1, STEPS).round().astype(int):
            x = diffusion.q_sample(x0, int(t), noise)
            images.append(data.to_uint8(x)[0])
            correlation = float(np.corrcoef(x.ravel(), x0.ravel())[0, 1])
            alpha_bar, snr = float(schedule.alpha_bars[t]), float(schedule.snr[t])
            rows.append((schedule.name, int(t), alpha_bar, snr, correlation))
    return np.stack(images), rows
