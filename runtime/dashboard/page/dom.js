// Elements, made of names and text. Text is only ever put in as text: no markup is parsed here or
// anywhere on the page, and the page's policy (trusted types) holds it to that.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties, attributes (those with a dash, and `role`) and children. */
export function el(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** The same for SVG, where all properties are attributes. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function filled(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(element.dataset, value);
    else if (key === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text where it is another: what does not change is not touched. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function setAttribute(element, name, value) {
  const wanted = String(value);
  if (element.getAttribute(name) !== wanted) element.setAttribute(name, wanted);
}

/**
 * Make a parent's children those of a list, keeping the elements of items that stay, so that focus
 * and transitions outlive an update.
 *
 * @param keyOf an item's key
 * @param make gives an element for a new item
 * @param update brings an element up to date
 */
export function keyed(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = old.get(key);
    old.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const element of old.values()) element.remove();
}

/** The element with an id; the page is built so that it is there. */
export function byId(id) {
  return document.getElementById(id);
}

export const still = matchMedia("(prefers-reduced-motion: reduce)");
