// What the question is made of, shown: its pictures in the box, signed words and filters below it.

import { byId, el, icon } from "./dom.js";
import { Unclear, asLine, parseQuery, writeQuery } from "./question.js";
import * as wheres from "./where.js";

const THINGS = {
  caption: "with a caption", gps: "with a place", date: "with a date",
  camera: "with a camera", keyword: "with keywords", tag: "with tags",
};
const FOLDER = /^(folder|in):/i;

/** A month as this person's language writes it ("2019-07" → "Jul 2019"); other values as they are. */
export function nameOf(kind, value) {
  if (kind === "has") return THINGS[value] ?? value;
  if (kind !== "taken" || !/^\d{4}-\d{2}$/.test(value)) return value;
  const [year, month] = value.split("-").map(Number);
  return new Date(year, month - 1).toLocaleDateString(undefined, { month: "short", year: "numeric" });
}

function entryName({ kind, conditions, text }) {
  if (kind !== null) {
    return conditions.map((one) => nameOf(kind, wheres.valueOf(one))).join(" or ");
  }
  if (/^has:\w+$/i.test(text)) return nameOf("has", text.slice(4).toLowerCase());
  if (FOLDER.test(text) && wheres.read(text).length === 1) {
    return `in ${wheres.valueOf(text).replace(/\/+$/, "").split("/").at(-1)}`;
  }
  return text;
}

/** A small picture; where the browser cannot show it (HEIC), what kind it is. */
function face({ src, file }, alt) {
  const image = el("img", { src, alt });
  image.addEventListener("error", () => {
    const kind = /\.(\w{1,5})$/.exec(file ?? "")?.[1].toUpperCase() ?? "?";
    image.replaceWith(el("span", { className: "lost", title: alt }, kind));
  });
  return image;
}

export class Parts {
  /** preview(name) gives {src, alt} or null; onChange(change of the state). */
  constructor({ preview, onChange }) {
    Object.assign(this, { preview, onChange });
  }

  show(state) {
    const { like, unlike } = state;
    const chips = [
      ...like.map((name) => this.chip(state, name, "like", "unlike")),
      ...unlike.map((name) => this.chip(state, name, "unlike", "like")),
    ];
    byId("chips").replaceChildren(...chips);
    byId("chips").hidden = chips.length === 0;
    const pills = [...this.words(state), ...this.filters(state)];
    byId("pills").replaceChildren(...pills);
    byId("pills").hidden = pills.length === 0;
  }

  /** One picture; its sign turns it over to the other list. */
  chip(state, name, mine, other) {
    const shown = this.preview(name);
    const isMinus = mine === "unlike";
    const rest = state[mine].filter((one) => one !== name);
    const what = shown?.alt ?? "a picture";
    return el("li", { className: isMinus ? "chip minus" : "chip" },
      shown ? face(shown, isMinus ? `Not like: ${what}` : what) : el("span", { className: "lost" }, "?"),
      el("button", {
        type: "button",
        className: "sign",
        title: isMinus ? "Look for it instead" : "Avoid it instead",
        ariaLabel: isMinus ? `Avoided: ${what}. Look for it instead` : `Looked for: ${what}. Avoid it instead`,
        onclick: () => this.onChange({ [mine]: rest, [other]: [...state[other], name] }),
      }, isMinus ? "−" : "+"),
      el("button", {
        type: "button",
        className: "off",
        ariaLabel: `Remove from the search: ${what}`,
        onclick: () => this.onChange({ [mine]: rest }),
      }, icon("cross")),
    );
  }

  /** The parts of the words, where there are several or one is weighted. */
  words({ q }) {
    let terms = [];
    try {
      terms = parseQuery(asLine(q));
    } catch (error) {
      if (!(error instanceof Unclear)) throw error;
    }
    if (terms.length < 2 && (terms[0]?.weight ?? 1) === 1) return [];
    return terms.map((term, at) => {
      const heavy = Math.abs(term.weight) === 1 ? "" : `${Math.abs(term.weight)} × `;
      const text = `${term.weight < 0 ? "− " : at ? "+ " : ""}${heavy}${term.text}`;
      return this.pill(text, term.weight < 0 ? "pill minus" : "pill word",
        { q: writeQuery(terms.filter((other) => other !== term)) });
    });
  }

  filters({ where, view }) {
    if (view !== "pictures") return [];
    const entries = wheres.read(where);
    return entries.map((entry) => this.pill(entryName(entry), "pill filter",
      { where: wheres.write(entries.filter((other) => other !== entry)) }, entry.text));
  }

  pill(text, className, change, title = text) {
    return el("li", { className, title }, el("span", {}, text),
      el("button", { type: "button", ariaLabel: `Remove ${text}`, onclick: () => this.onChange(change) }, icon("cross")));
  }
}
