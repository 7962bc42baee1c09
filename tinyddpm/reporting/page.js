"use strict";
{
  const byId = (id) => document.getElementById(id);

  byId("theme").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });

  // Denoising: one number, 0 for the first frame and 1 for the last, moves every strip
  const slider = byId("frame");
  if (slider) {
    const shares = slider.dataset.shares.split(" "), last = shares.length - 1;
    const place = document.querySelector(".denoising"), large = byId("large"), play = byId("play");
    const show = () => {
      place.style.setProperty("--at", last ? slider.value / last : 0);
      const text = `${shares[slider.value]} % of the steps`;
      byId("share").textContent = text;
      slider.setAttribute("aria-valuetext", text);
    };
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    };
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) === last) slider.value = 0;
      show();
      play.textContent = "Stop";
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === last) stop();
      }, 150);
    });
    const buttons = [...byId("strips").querySelectorAll("button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", other === button);
        large.style.backgroundImage = button.querySelector(".strip").style.backgroundImage;
        large.setAttribute("aria-label", button.getAttribute("aria-label").replace(": show large", ", large"));
      });
    }
    show();
  }

  // Curves: the values nearest to the pointer, or to a cursor that arrow keys move
  const number = (value) => Number(value.toPrecision(4)).toString();
  const nearest = (list, x) => {
    let low = 0, high = list.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] < x) low = middle + 1; else high = middle;
    }
    return low && x - list[low - 1] <= list[low] - x ? low - 1 : low;
  };
  JSON.parse(byId("values").textContent).forEach((plot, index) => {
    const figure = byId(`plot-${index}`), canvas = figure.querySelector(".canvas");
    const cursor = canvas.querySelector(".cursor"), readout = figure.querySelector(".readout");
    const [left, right] = plot.span;
    const stops = [...new Set(plot.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    let at = stops.length - 1;
    const show = (stop) => {
      at = Math.min(Math.max(stop, 0), stops.length - 1);
      const x = stops[at];
      cursor.hidden = false;
      cursor.style.left = `${100 * (x - left) / (right - left)}%`;
      readout.textContent = `${plot.x} ${x.toLocaleString("en")}: ` + plot.lines.map((line) => {
        const i = nearest(line.x, x), here = line.x[i] === x ? "" : ` (at ${line.x[i].toLocaleString("en")})`;
        const wide = line.low.length && line.low[i] !== line.high[i];
        return `${line.name} ${number(line.y[i])}${here}` + (wide ? ` (${number(line.low[i])} … ${number(line.high[i])})` : "");
      }).join("; ");
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      show(nearest(stops, left + (right - left) * (event.clientX - box.left) / box.width));
    });
    canvas.addEventListener("keydown", (event) => {
      const big = Math.max(1, Math.round(stops.length / 10));
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at + big, PageDown: at - big, Home: 0, End: stops.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(cursor.hidden ? at : moves[event.key]);
    });
  });

  byId("copy").addEventListener("click", (event) => {
    const range = document.createRange();
    range.selectNodeContents(byId("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    navigator.clipboard?.writeText(byId("command").textContent).then(() => { event.target.textContent = "Copied"; }, () => {});
  });
}
