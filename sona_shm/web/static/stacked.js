/** Shares of a whole over time, as areas on each other; names beside those that are wide enough. */

import { svg } from "./dom.js";
import { TimeFrame } from "./frame.js";

const NAME_HEIGHT = 14;

export class StackedChart extends TimeFrame {
  domain() {
    return [0, 1];
  }

  paint() {
    let below = this.time.map(() => 0);
    return this.series.flatMap(({ label, kind, values }) => {
      const above = below.map((share, i) => share + (values[i] ?? 0));
      const shapes = [svg("path", { class: `area ${kind}`, d: this.#band(below, above) })];
      const top = this.y(above.at(-1));
      const bottom = this.y(below.at(-1));
      if (bottom - top >= NAME_HEIGHT) {
        shapes.push(svg("text", { class: "name", x: this.end + 8, y: (top + bottom) / 2 + 4 }, shorten(label)));
      }
      below = above;
      return shapes;
    });
  }

  #band(below, above) {
    const forth = above.map((share, i) => `${this.x(this.time[i]).toFixed(1)},${this.y(share).toFixed(1)}`);
    const back = below.map((share, i) => `${this.x(this.time[i]).toFixed(1)},${this.y(share).toFixed(1)}`);
    return `M${forth.join("L")}L${back.reverse().join("L")}Z`;
  }
}

function shorten(name) {
  return name.length > 14 ? `${name.slice(0, 13)}…` : name;
}
