/** Elements made and kept up to date without markup in strings. */

const SVG = "http://www.w3.org/2000/svg";

/** Text of others, without what is not seen and may turn or hide the letters beside it. */
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, "?");
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, visible(String(value)));
  node.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return node;
}

export function html(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Change a text only where it differs: screen readers and selections notice every change. */
export function say(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/**
 * Make a table's body have these rows, reusing the cells that are there.
 *
 * A cell is a text, or {text, kind, figure, value, swatch, title}: `figure` is the path of a
 * statistic, whose exact value is kept beside the text that people read.
 */
export function fill(body, rows) {
  resize(body, rows.length, () => html("tr"));
  rows.forEach((cells, i) => {
    const row = body.children[i];
    resize(row, cells.length, () => html("td"));
    cells.forEach((cell, j) => fillCell(row.children[j], cell));
  });
}

function resize(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make());
}

function fillCell(node, cell) {
  const { text, kind = "", figure, value, swatch, title = "" } =
    typeof cell === "object" ? cell : { text: cell };
  if (node.className !== kind) node.className = kind;
  if (node.title !== visible(title)) node.title = visible(title);
  if (figure === undefined) {
    delete node.dataset.figure;
    delete node.dataset.value;
  } else {
    node.dataset.figure = figure;
    node.dataset.value = JSON.stringify(value);
  }
  if (swatch === undefined) {
    say(node, text);
  } else if (node.textContent !== visible(text) || node.firstChild.className !== `swatch ${swatch}`) {
    node.replaceChildren(html("span", { class: `swatch ${swatch}` }), visible(text));
  }
}
