// The panel of filters: what the pictures have in common, counted, and a line for all else.

import { Gone, facets } from "./api.js";
import { byId, count, el, keepFocus, number } from "./dom.js";
import { nameOf } from "./parts.js";
import * as wheres from "./where.js";

const GROUPS = [
  ["years", "taken", "Year"],
  ["months", "taken", "Month"],
  ["cameras", "camera", "Camera"],
  ["orientations", "orientation", "Shape"],
  ["formats", "format", "Format"],
  ["keywords", "keyword", "Keyword"],
  ["tags", "tag", "Tag"],
  ["sources", "source", "Source"],
  ["has", "has", "Pictures"],
];
/** Of longer lists the rest comes when asked for. */
const SHORT = 14;

/** It says nothing of the filter, but of the service. */
const isAway = (error) => error instanceof Gone || error.status === 401;

export class Filters {
  /**
   * onWhere(text) when a choice was made; total(): how many pictures there are, where known;
   * onAway(error) when the service is not there, or asks for a key.
   */
  constructor({ onWhere, total, onAway }) {
    Object.assign(this, { onWhere, total, onAway });
    this.box = byId("filters");
    this.button = byId("filters-open");
    this.where = "";
    this.shownFor = null;
    this.isTypedWrong = false;
    this.long = new Set();
    this.button.addEventListener("click", () => this.open(this.box.hidden));
    this.groups = el("div", { className: "groups" });
    this.problem = el("p", { className: "problem", id: "where-problem", role: "alert", hidden: true });
    this.field = el("input", {
      id: "where",
      autocomplete: "off",
      spellcheck: false,
      maxLength: 10_000,
      placeholder: 'taken:2019..2021 not path:**/Screenshots/** size:>5MB',
      attrs: { "aria-describedby": "where-problem", "aria-label": "Filter as text", autocapitalize: "off" },
    });
    this.form = el("form", { className: "where", onsubmit: (event) => this.submit(event) },
      this.field,
      el("button", { type: "submit", className: "small" }, "Apply"),
    );
    this.heading = el("p", { className: "passes" });
    this.clear = el("button", { type: "button", className: "quiet", onclick: () => this.onWhere("") }, "no filters");
    this.box.replaceChildren(this.groups, this.form, this.problem, el("p", { className: "sum" }, this.heading, this.clear));
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.open(false);
      this.button.focus();
    });
  }

  open(isOpen) {
    this.box.hidden = !isOpen;
    this.button.ariaExpanded = String(isOpen);
    if (isOpen) this.refresh();
  }

  /** The state's filter is this. */
  show(where, isShown) {
    const entries = wheres.read(where);
    const chosen = entries.reduce((sum, { conditions }) => sum + conditions.length, 0);
    byId("filters-count").textContent = chosen;
    byId("filters-count").hidden = chosen === 0;
    this.button.hidden = !isShown;
    if (where !== this.where || !this.field.matches(":focus")) this.field.value = where;
    if (where !== this.where) this.isTypedWrong = false;
    this.where = where;
    if (!isShown) this.box.hidden = true;
    this.button.ariaExpanded = String(!this.box.hidden);
    if (!this.box.hidden && where !== this.shownFor) this.refresh();
  }

  /** Other pictures are there now. */
  forget() {
    this.shownFor = null;
    if (!this.box.hidden) this.refresh();
  }

  async refresh() {
    if (this.shownFor === this.where) return;
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    const where = this.where;
    try {
      // Each kind with choices is counted without them: these are the others one may add.
      const kinds = [...new Set(wheres.read(where).map(({ kind }) => kind))].filter(Boolean);
      const [all, ...others] = await Promise.all(
        [where, ...kinds.map((kind) => wheres.without(where, kind))].map((text) => facets(text, signal)),
      );
      if (signal.aborted) return;
      this.shownFor = where;
      // These counts are of the filter in use, and say nothing of what was typed since.
      if (!this.isTypedWrong) this.tell(null);
      keepFocus(() => this.fill(all, new Map(kinds.map((kind, at) => [kind, others[at]]))));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (isAway(error)) this.onAway(error);
      else this.tell(error.message);
    }
  }

  fill(all, others) {
    const focused = document.activeElement?.dataset?.condition;
    this.groups.replaceChildren(
      ...GROUPS.map(([name, kind, title]) => this.group(name, kind, title, all, others)).filter(Boolean),
    );
    const total = this.total();
    const isFiltered = this.where.trim() !== "";
    this.heading.textContent = isFiltered && total !== null
      ? `${number(all.total)} of ${count(total, "picture")} ${all.total === 1 ? "passes" : "pass"}` : count(all.total, "picture");
    this.clear.hidden = !isFiltered;
    if (focused) this.groups.querySelector(`[data-condition="${CSS.escape(focused)}"]`)?.focus();
  }

  group(name, kind, title, all, others) {
    const from = others.get(kind) ?? all;
    let counts = from[name];
    if (name === "months") counts = counts.filter(({ value }) => this.isYearOpen(value.slice(0, 4)));
    const isChosen = (one) => wheres.has(this.where, one.filter);
    // A choice that everything has, or nothing but one thing, helps nobody.
    const isTelling = counts.some(isChosen) ||
      counts.some((one) => one.count < from.total) && (counts.length > 1 || name !== "months");
    if (!isTelling) return null;
    const isLong = counts.length > SHORT && !this.long.has(name);
    const shown = isLong ? counts.filter((one, at) => at < SHORT || isChosen(one)) : counts;
    const most = Math.max(...counts.map((one) => one.count));
    const id = `group-${name}`;
    return el("div", { className: "group", role: "group", attrs: { "aria-labelledby": id } },
      el("h2", { id }, title),
      el("div", { className: "choices" },
        ...shown.map((one) => this.choice(one, kind, isChosen(one), one.count / most)),
        isLong ? el("button", {
          type: "button",
          className: "quiet",
          onclick: () => {
            this.long.add(name);
            this.fill(all, others);
          },
        }, `${counts.length - shown.length} more`) : null,
      ),
    );
  }

  isYearOpen(year) {
    return wheres.read(this.where).some(({ kind, conditions }) =>
      kind === "taken" && conditions.some((one) => wheres.valueOf(one).startsWith(year)));
  }

  choice({ value, count: n, filter }, kind, isChosen, share) {
    return el("button", {
      type: "button",
      className: "choice",
      ariaPressed: String(isChosen),
      data: { condition: filter },
      style: { "--share": share.toFixed(3) },
      onclick: () => this.onWhere(wheres.toggle(this.where, filter)),
    }, el("span", {}, nameOf(kind, value)), " ", el("small", {}, number(n)));
  }

  /** What was written by hand is used only once the service has understood it. */
  async submit(event) {
    event.preventDefault();
    const where = this.field.value.trim();
    try {
      await facets(where);
    } catch (error) {
      if (isAway(error)) {
        this.onAway(error);
        return;
      }
      this.tell(error.message);
      this.isTypedWrong = true;
      return;
    }
    this.isTypedWrong = false;
    this.tell(null);
    this.onWhere(where);
  }

  tell(problem) {
    this.problem.hidden = problem === null;
    this.problem.textContent = problem ?? "";
    this.field.ariaInvalid = String(problem !== null);
  }
}
