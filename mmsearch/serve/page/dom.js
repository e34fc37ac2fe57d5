// Small pieces that every part of the page uses.

/** The element with this id, which is there. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `props` are properties, `on…` listeners, `data`/`style`/`attrs` maps;
 * children are nodes or strings (null is left out).
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  const { data, style, attrs, ...plain } = props;
  for (const [key, value] of Object.entries(plain)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node[key] = value;
  }
  for (const [key, value] of Object.entries(data ?? {})) node.dataset[key] = value;
  for (const [key, value] of Object.entries(style ?? {})) node.style.setProperty(key, value);
  for (const [key, value] of Object.entries(attrs ?? {})) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const number = (n) => n.toLocaleString();

/** "1 picture", "2 pictures". */
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A camera's local time, as this person's language writes dates. It carries no zone. */
export function when(text) {
  const date = new Date(text);
  if (Number.isNaN(date.valueOf())) return text;
  return date.toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" });
}

/** What a screen reader says for a picture: its caption, or its name. */
export const describe = (image) =>
  image.captions?.[0] || image.title || image.description || image.name;

/**
 * How strong an answer looks, 0 to 1. Its relevance says so by itself; without one, it stands beside
 * the best: scores of different models and of words and pictures lie in different ranges, so only
 * the ratio to the best says something.
 */
export function strength({ relevance, score }, best) {
  if (typeof relevance === "number") return relevance;
  if (score === null) return 1;
  if (!(best > 0)) return score === best ? 1 : 0;
  return Math.min(1, Math.max(0, (score / best - 0.62) / 0.33));
}

/** The same in figures: "97 %", or a cosine where there is no relevance. */
export function figure({ relevance, score }) {
  if (typeof relevance === "number") return `${Math.round(relevance * 100)} %`;
  return score === null ? "" : score.toFixed(2);
}

/** The score that the others are measured by; a picture that finds itself does not count. */
export function bestOf(hits) {
  if (hits.length === 0) return 0;
  const [first, second] = hits;
  return first.score > 0.98 && second ? second.score : first.score;
}

/**
 * Do what may take the focused element away. Who goes by the keyboard, or listens, then stands at the
 * results, not at the beginning of the page.
 */
export function keepFocus(act) {
  const held = document.activeElement;
  act();
  const now = document.activeElement;
  const isGone = now === document.body || !now.checkVisibility();
  if (held !== document.body && isGone) byId("results").focus({ preventScroll: true });
}

export function wait(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Buttons that say for a moment how copying went: {said, timer} with their own words. */
const telling = new WeakMap();

/** Copy a text, and say on the button whether it worked. */
export async function copy(text, button) {
  let went = "copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    went = "not allowed";
  }
  // Pressed again meanwhile, what stands on it are not its own words.
  const { said, timer } = telling.get(button) ?? { said: button.textContent };
  clearTimeout(timer);
  button.textContent = went;
  const back = () => {
    telling.delete(button);
    button.textContent = said;
  };
  telling.set(button, { said, timer: setTimeout(back, 1_600) });
}

const ICONS = {
  cross: "M4 4l8 8M12 4l-8 8",
  tick: "M3 8.5l3.5 3.5L13 4.500",
};

/** A small drawing, for a button that has a name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
