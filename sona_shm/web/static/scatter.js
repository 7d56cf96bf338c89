/** Points in a plane: one stop of the Tab key, arrow keys within. */

import { fill, html, say, svg } from "./dom.js";

const HEIGHT = 300;
const MARGIN = 18;
const [SMALLEST, LARGEST] = [4, 15];

export class Scatter {
  /** @param describe gives the words for a point */
  constructor(host, { title, columns, row, describe, kind }) {
    this.title = title;
    this.row = row;
    this.describe = describe;
    this.kind = kind;
    this.points = [];
    this.chosen = 0;
    this.touched = false;
    this.image = svg("svg", { role: "group", height: HEIGHT, "aria-label": title });
    this.detail = html("p", { class: "detail", "aria-live": "polite" });
    this.body = html("tbody");
    const heads = columns.map((name) => html("th", { scope: "col" }, name));
    this.details = html("details", {}, html("summary", {}, "As a table"),
      html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, table` },
        html("table", {}, html("thead", {}, html("tr", {}, ...heads)), this.body)));
    host.append(this.image, this.detail, this.details);
    this.image.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#render()).observe(host);
  }

  /** Show points of {x, y, size, ...}. */
  draw(points) {
    // Small ones on top, so that every one can be pointed at.
    this.points = [...points].sort((a, b) => b.size - a.size);
    this.chosen = Math.min(this.chosen, Math.max(0, points.length - 1));
    this.#render();
    fill(this.body, this.points.map(this.row));
  }

  #render() {
    if (this.points.length === 0) {
      this.image.replaceChildren(svg("text", { x: MARGIN, y: HEIGHT / 2 }, "None learned yet: the first refit comes after 32 outcomes"));
      say(this.detail, "");
      return;
    }
    const focused = this.image.contains(document.activeElement);
    const place = this.#places();
    const largest = this.points[0].size || 1;
    this.image.replaceChildren(...this.points.map((point, i) => {
      const { x, y } = place(point);
      const r = Math.max(SMALLEST, LARGEST * Math.sqrt(point.size / largest));
      const circle = svg("circle", {
        class: `point ${this.kind(point)}`, cx: x, cy: y, r,
        tabindex: i === this.chosen ? 0 : -1, role: "img", "aria-label": this.describe(point),
      });
      circle.addEventListener("pointerenter", () => this.#choose(i, false));
      circle.addEventListener("focus", () => this.#choose(i, circle.matches(":focus-visible")));
      return circle;
    }));
    if (focused) this.image.children[this.chosen].focus();
    this.#mark();
  }

  #places() {
    const width = Math.max(80, this.image.clientWidth);
    const xs = this.points.map(({ x }) => x);
    const ys = this.points.map(({ y }) => y);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    // One scale for both directions, since distances mean something.
    const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (high - low || 1));
    return ({ x, y }) => ({
      x: width / 2 + (x - (left + right) / 2) * scale,
      y: HEIGHT / 2 - (y - (low + high) / 2) * scale,
    });
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const count = this.points.length;
    this.image.children[(this.chosen + step + count) % count].focus();
  }

  #choose(index, byKeyboard) {
    this.image.children[this.chosen]?.setAttribute("tabindex", -1);
    this.chosen = index;
    this.touched = true;
    this.image.children[index].setAttribute("tabindex", 0);
    this.image.classList.toggle("keyboard", byKeyboard);
    this.#mark();
  }

  #mark() {
    [...this.image.children].forEach((circle, i) => {
      circle.classList.toggle("chosen", this.touched && i === this.chosen);
    });
    say(this.detail, this.touched ? this.describe(this.points[this.chosen])
      : `${this.points.length} patterns. Point at one, or go to them with Tab and arrow keys.`);
  }
}
