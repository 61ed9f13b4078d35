// Elements made without markup strings: a file's name can never become code.

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag its name
 * @param {object} properties `on*` are listeners, `aria-*`, `data-*` and `role` are attributes, the rest properties
 * @param {...(Node|string)} children
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A square of a colour. */
export function chip(colour) {
  const element = el("span", { class: "chip", "aria-hidden": "true" });
  element.style.backgroundColor = colour;
  return element;
}

/** A number for people: three significant digits, thin spaces between thousands. */
export function short(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en").replaceAll(",", "\u2009");
  return String(Number(value.toPrecision(digits)));
}
