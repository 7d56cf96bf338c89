/**
 * What every chart over time has in common: axes, a key with figures, a cursor for pointer and
 * keyboard, a summary in words, and the same figures as a table.
 */

import { clock } from "./format.js";
import { fill, html, say, svg } from "./dom.js";

const MARGIN = { top: 6, right: 14, bottom: 20, left: 44 };
const TIME_STEPS = [1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600];
const TABLE_ROWS = 12;

/** About so many round numbers from low to high. */
export function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** Subclasses say which range they cover (`domain`) and how they draw (`paint`). */
export class TimeFrame {
  /**
   * @param host figure that the chart goes into
   * @param options title: what is shown; format: of a value; tick: of a value on the axis;
   *   height: in pixels; right: room for names beside the plot, in pixels
   */
  constructor(host, { title, format, tick = format, height = 200, right = MARGIN.right }) {
    this.title = title;
    this.format = format;
    this.tick = tick;
    this.height = height;
    this.right = right;
    this.time = [];
    this.series = [];
    this.cursor = null;
    this.key = html("div", { class: "key" });
    this.image = svg("svg", { role: "img", height });
    this.spoken = html("p", { class: "hidden", "aria-live": "polite" });
    this.chart = html("div", {
      class: "chart", tabindex: "0", role: "group",
      "aria-label": `${title}; arrow keys go through time`,
    }, this.image);
    this.head = html("tr");
    this.body = html("tbody");
    const table = html("table", {}, html("thead", {}, this.head), this.body);
    this.details = html("details", {}, html("summary", {}, "As a table"),
      html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, table` }, table));
    host.append(this.key, this.chart, this.spoken, this.details);
    this.#listen();
  }

  /** Show series of {label, kind, values}, each with a value or null for every time. */
  draw(time, series) {
    this.time = time;
    this.series = series;
    this.#render();
    this.#describe();
    if (this.details.open) this.#tabulate();
  }

  #listen() {
    new ResizeObserver(() => this.#render()).observe(this.chart);
    this.chart.addEventListener("pointermove", (event) => {
      const left = this.chart.getBoundingClientRect().left;
      this.#point(this.#nearest(event.clientX - left));
    });
    for (const leaving of ["pointerleave", "blur"]) {
      this.chart.addEventListener(leaving, () => this.#point(null));
    }
    this.chart.addEventListener("keydown", (event) => {
      const last = this.time.length - 1;
      const at = this.cursor ?? last;
      const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
      if (target === undefined || last < 0) return;
      event.preventDefault();
      this.#point(target === null ? null : Math.min(last, Math.max(0, target)));
      say(this.spoken, this.key.textContent);
    });
    this.details.addEventListener("toggle", () => this.#tabulate());
  }

  #point(index) {
    this.cursor = index;
    this.#render();
  }

  #nearest(x) {
    if (this.time.length === 0) return null;
    const { from, seconds, width } = this.#across();
    const wanted = from + ((x - MARGIN.left) / width) * seconds;
    let best = 0;
    this.time.forEach((t, i) => {
      if (Math.abs(t - wanted) < Math.abs(this.time[best] - wanted)) best = i;
    });
    return best;
  }

  #across() {
    const width = Math.max(40, this.chart.clientWidth - MARGIN.left - this.right);
    const from = this.time[0] ?? 0;
    return { width, from, seconds: Math.max(1, this.time.at(-1) - from) };
  }

  #render() {
    if (this.cursor !== null && this.cursor >= this.time.length) this.cursor = null;
    this.#renderKey();
    if (this.time.length === 0) {
      this.image.replaceChildren(svg("text", { x: MARGIN.left, y: this.height / 2 }, "No figures yet"));
      return;
    }
    const { width, from, seconds } = this.#across();
    const height = this.height - MARGIN.top - MARGIN.bottom;
    const [low, high] = this.domain();
    this.x = (time) => MARGIN.left + ((time - from) / seconds) * width;
    this.y = (value) => MARGIN.top + (1 - (value - low) / (high - low || 1)) * height;
    this.end = MARGIN.left + width;
    this.image.replaceChildren(
      ...this.#valueAxis(low, high), ...this.#timeAxis(from, seconds, width),
      ...this.paint(), ...this.#cursorLine());
  }

  #renderKey() {
    const at = this.cursor ?? this.time.length - 1;
    const items = this.series.map(({ label, kind, values }) => html("span", {},
      html("span", { class: `swatch ${kind}` }), `${label} `, html("b", {}, this.format(values[at]))));
    if (this.cursor !== null) items.push(html("span", { class: "when" }, clock(this.time[at])));
    this.key.replaceChildren(...items);
  }

  #valueAxis(low, high) {
    return ticks(low, high, 4).flatMap((value) => [
      svg("line", { class: "gridline", x1: MARGIN.left, x2: this.end, y1: this.y(value), y2: this.y(value) }),
      svg("text", { x: MARGIN.left - 8, y: this.y(value) + 4, "text-anchor": "end" }, this.tick(value)),
    ]);
  }

  #timeAxis(from, seconds, width) {
    const most = Math.max(2, Math.floor(width / 80));
    const step = TIME_STEPS.find((size) => seconds / size <= most) ?? TIME_STEPS.at(-1);
    const shift = 60 * new Date().getTimezoneOffset();
    const first = Math.ceil((from - shift) / step) * step + shift;
    const labels = [];
    for (let t = first; t <= from + seconds; t += step) {
      labels.push(svg("text", { x: this.x(t), y: this.height - 4, "text-anchor": "middle" }, clock(t, step < 60)));
    }
    return labels;
  }

  #cursorLine() {
    if (this.cursor === null) return [];
    const x = this.x(this.time[this.cursor]);
    return [svg("line", { class: "cursor", x1: x, x2: x, y1: MARGIN.top, y2: this.height - MARGIN.bottom })];
  }

  #describe() {
    const parts = this.series.map(({ label, values }) => {
      const known = values.filter((value) => value !== null);
      if (known.length === 0) return `${label}: no figures`;
      const [least, most] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
      return `${label}: ${this.format(known.at(-1))} now, from ${this.format(least)} to ${this.format(most)}`;
    });
    this.image.setAttribute("aria-label", `${this.title}. ${parts.join("; ")}.`);
  }

  #tabulate() {
    this.head.replaceChildren(...["Time", ...this.series.map(({ label }) => label)].map(
      (name) => html("th", { scope: "col" }, name)));
    const stride = Math.max(1, Math.floor(this.time.length / TABLE_ROWS));
    const rows = [];
    for (let i = this.time.length - 1; i >= 0 && rows.length < TABLE_ROWS; i -= stride) {
      rows.push([clock(this.time[i]), ...this.series.map(({ values }) => this.format(values[i]))]);
    }
    fill(this.body, rows);
  }
}
