// Pictures that were picked out, and what can be done with them.

import { zip } from "./api.js";
import { byId, copy, count } from "./dom.js";

/** The service puts so many pictures into one file. */
const MAX_ZIPPED = 500;

export class Selection {
  /** onChange() when it is another; onLike(ids), onUnlike(ids). */
  constructor({ onChange, onLike, onUnlike }) {
    this.onChange = onChange;
    this.hits = new Map();
    byId("bar-paths").addEventListener("click", (event) => {
      copy([...this.hits.values()].map(({ path }) => path).join("\n"), event.currentTarget);
    });
    byId("bar-like").addEventListener("click", () => onLike(this.take()));
    byId("bar-unlike").addEventListener("click", () => onUnlike(this.take()));
    byId("bar-clear").addEventListener("click", () => this.clear());
  }

  get size() {
    return this.hits.size;
  }

  has(id) {
    return this.hits.has(id);
  }

  toggle(hit) {
    if (!this.hits.delete(hit.id)) this.hits.set(hit.id, hit);
    this.show();
  }

  /** Also these. */
  add(hits) {
    for (const hit of hits) this.hits.set(hit.id, hit);
    this.show();
  }

  clear() {
    this.hits.clear();
    this.show();
  }

  /** The ids, which are not selected any more. */
  take() {
    const ids = [...this.hits.keys()];
    this.clear();
    return ids;
  }

  show() {
    const n = this.hits.size;
    const isMany = n > MAX_ZIPPED;
    const bar = byId("bar");
    if (n === 0 && bar.contains(document.activeElement)) byId("results").focus();
    bar.hidden = n === 0;
    document.body.classList.toggle("selecting", n > 0);
    byId("bar-count").textContent = n ? `${count(n, "picture")} selected` : "";
    byId("bar-zip").hidden = isMany;
    if (n && !isMany) byId("bar-zip").href = zip([...this.hits.keys()]);
    byId("bar-zip").title = `One file of ${count(n, "picture")}`;
    this.onChange();
  }
}
