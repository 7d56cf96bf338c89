/** Lines over time; a gap where there is no figure. */

import { svg } from "./dom.js";
import { TimeFrame } from "./frame.js";

/** Told apart without colour, too. */
const DASHES = ["", "dashed", "dotted"];

export class LineChart extends TimeFrame {
  /** @param options those of TimeFrame, and fromZero: whether the axis begins there */
  constructor(host, { fromZero = true, ...options }) {
    super(host, options);
    this.fromZero = fromZero;
  }

  domain() {
    let low = this.fromZero ? 0 : Infinity;
    let high = this.fromZero ? 1 : -Infinity;
    for (const { values } of this.series) {
      for (const value of values) {
        if (value === null) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    if (low > high) return [0, 1];
    const room = Math.max(0.02, 0.08 * (high - low));
    return this.fromZero ? [0, high * 1.08] : [low - room, high + room];
  }

  paint() {
    return this.series.flatMap(({ kind, values }, n) => [
      svg("path", { class: `stroke ${kind} ${DASHES[n % DASHES.length]}`, d: this.#path(values) }),
      ...this.#dot(kind, values),
    ]);
  }

  #path(values) {
    let pen = "M";
    let path = "";
    values.forEach((value, i) => {
      if (value === null) {
        pen = "M";
        return;
      }
      path += `${pen}${this.x(this.time[i]).toFixed(1)},${this.y(value).toFixed(1)}`;
      pen = "L";
    });
    return path;
  }

  #dot(kind, values) {
    const at = this.cursor ?? values.length - 1;
    if (values[at] == null) return [];
    return [svg("circle", { class: `dot ${kind}`, cx: this.x(this.time[at]), cy: this.y(values[at]), r: 4 })];
  }
}
