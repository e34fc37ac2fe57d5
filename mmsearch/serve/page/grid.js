// A justified grid that shows only the rows near the window, so that ten thousand pictures cost no
// more than a hundred, and asks for more pictures as their place comes near.

import { bestOf, describe, el, figure, icon, keepFocus, strength } from "./dom.js";
import { Gone, thumbnail } from "./api.js";
import { GAP, beside, justify, middleOf, ratioOf } from "./rows.js";
import { ID_TYPE } from "./take.js";

const FIRST_PAGE = 60;
const NEXT_PAGE = 120;
/** Rows are kept this many window heights beyond the window. */
const MARGIN = 1.2;
/** More is asked for when less than this many window heights is left. */
const AHEAD = 2;
const SETTLED_MS = 90;

export class Grid {
  /**
   * box: the element to fill. onOpen(hit), onSign(hit, isMinus) for its part in the question,
   * onLeave() upwards, onChange(page) after each page, onError(error), href(hit), maxOffset(): how
   * deep the service lets a list be read; selection: what was picked out (selection.js);
   * onMissing() when a picture does not come: the error of the service, or null where it is there.
   * `plain` shows pictures without their scores; `isRelative` fades them beside the best of the list,
   * where only what comes nearest was asked for.
   */
  constructor(box, handlers) {
    Object.assign(this, { box }, handlers);
    this.plain = false;
    this.isRelative = false;
    this.clear();
    this.drawn = new Map();
    /** The ids of pictures that did not come: each is asked for once more, not without end. */
    this.missing = new Set();
    this.frame = 0;
    this.width = 0;
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.resize()).observe(box);
    box.addEventListener("keydown", (event) => this.onKey(event));
    box.addEventListener("click", (event) => this.onClick(event));
    box.addEventListener("focusin", (event) => this.onFocus(event));
    box.addEventListener("dragstart", (event) => {
      const tile = event.target.closest?.(".tile");
      if (!tile) return;
      event.dataTransfer.setData(ID_TYPE, tile.dataset.id);
      event.dataTransfer.setDragImage(tile.querySelector("img"), 30, 30);
    });
    // A finger that stays on a picture selects it; a mouse has its own menu there.
    box.addEventListener("contextmenu", (event) => {
      const tile = event.target.closest?.(".tile");
      if (!tile || event.pointerType === "mouse" || !matchMedia("(pointer: coarse)").matches) return;
      event.preventDefault();
      this.pick(Number(tile.dataset.index));
    });
  }

  clear() {
    this.hits = [];
    this.seen = new Set();
    this.ended = true;
    this.loading = false;
    this.load = null;
    this.current = 0;
    this.column = null;
    this.anchor = 0;
    this.rows = [];
    this.cut = 0;
    this.isDeep = false;
  }

  /** Start a list anew; load(k, offset, signal) gives a page. Old pictures stay, dimmed, until the first new ones are here. */
  async start(load) {
    this.stop();
    this.load = load;
    this.ended = false;
    this.box.classList.add("stale");
    this.box.setAttribute("aria-busy", "true");
    if (this.hits.length === 0) this.skeleton();
    await this.more(true);
  }

  /** Show a list that is known already. */
  restore({ hits, ended, load, current, cut, isDeep, offset, allowed }) {
    this.stop();
    this.clear();
    Object.assign(this, { load, ended, cut, isDeep, offset, allowed });
    this.current = current ?? 0;
    this.take(hits, true);
  }

  keep() {
    const { hits, ended, load, current, cut, isDeep, offset, allowed } = this;
    return { hits, ended, load, current, cut, isDeep, offset, allowed };
  }

  /** The service is back: ask again for what it did not give. */
  retry() {
    this.isPaused = false;
    this.missing.clear();
    for (const tile of this.box.querySelectorAll(".tile.gone")) this.again(tile);
    if (this.box.classList.contains("stale")) this.start(this.load);
    else this.draw();
  }

  again(tile) {
    const image = tile.querySelector("img");
    tile.classList.remove("gone");
    image.src = image.getAttribute("src");
  }

  /** A picture did not come: perhaps the service was away for a moment. */
  async gone(tile, { id }) {
    tile.classList.add("gone");
    if (this.missing.has(id)) return;
    this.missing.add(id);
    const error = await this.onMissing();
    if (!error && tile.isConnected && tile.classList.contains("gone")) this.again(tile);
  }

  stop() {
    this.isPaused = false;
    this.abort?.abort();
    this.abort = null;
    this.loading = false;
  }

  /** Show nothing. */
  empty() {
    this.stop();
    this.clear();
    this.settle();
    keepFocus(() => this.layout());
  }

  settle() {
    this.box.classList.remove("stale");
    this.box.removeAttribute("aria-busy");
    this.box.querySelector(".skeleton")?.remove();
  }

  async more(isFirst = false) {
    if (this.loading || this.ended || this.isPaused || !this.load) return;
    this.loading = true;
    const abort = new AbortController();
    this.abort = abort;
    const offset = isFirst ? 0 : this.offset;
    const k = isFirst ? FIRST_PAGE : NEXT_PAGE;
    try {
      const page = await this.load(k, offset, abort.signal);
      if (abort.signal.aborted) return;
      if (isFirst) {
        const load = this.load;
        this.clear();
        this.load = load;
        this.ended = false;
      }
      this.offset = offset + page.hits.length;
      this.allowed = page.allowed;
      // After one that is too weak nothing comes.
      this.cut = page.cut;
      if (page.hits.length < k) this.ended = true;
      this.isDeep = !this.ended && this.offset > this.maxOffset();
      if (this.isDeep) this.ended = true;
      this.loading = false;
      this.take(page.hits, isFirst);
      this.onChange(page);
    } catch (error) {
      if (error.name === "AbortError" || abort.signal.aborted) return;
      this.loading = false;
      if (error instanceof Gone) {
        // What is shown stays; retry() goes on from here.
        this.isPaused = true;
      } else if (isFirst) {
        this.empty();
      } else {
        this.ended = true;
      }
      this.onError(error);
    }
  }

  take(hits, isFirst) {
    // A list can shift while it is read (pictures come and go): nothing is shown twice.
    for (const hit of hits) {
      if (this.seen.has(hit.id)) continue;
      this.seen.add(hit.id);
      this.hits.push(hit);
    }
    if (isFirst) {
      this.best = bestOf(this.hits);
      keepFocus(() => {
        for (const key of this.drawn.keys()) this.remove(key);
      });
      this.wasAt = undefined;
      this.settle();
    }
    this.layout();
  }

  resize() {
    if (this.box.clientWidth !== this.width) this.layout();
  }

  layout() {
    this.width = this.box.clientWidth;
    if (this.width === 0) return;
    const ratios = this.hits.map(ratioOf);
    const { rows, height } = justify(ratios, this.width, this.ended);
    this.rows = rows;
    this.box.style.height = rows.length || this.ended ? `${height}px` : "";
    this.draw(true);
  }

  draw(now = false) {
    if (now) {
      this.paint();
    } else if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.paint();
      });
    }
  }

  paint() {
    if (!this.box.offsetParent) return;
    const start = this.box.getBoundingClientRect().top;
    const from = -start - innerHeight * MARGIN;
    const to = -start + innerHeight * (1 + MARGIN);
    const focused = this.box.contains(document.activeElement) ? this.rowOf(this.current) : -1;
    const wanted = new Map();
    this.rows.forEach((row, index) => {
      const isNear = row.top + row.height >= from && row.top <= to;
      if (isNear || index === focused) wanted.set(this.keyOf(row), row);
    });
    for (const key of this.drawn.keys()) {
      if (!wanted.has(key)) this.remove(key);
    }
    for (const [key, row] of wanted) {
      if (!this.drawn.has(key)) this.place(key, row);
    }
    // Rows that only fly past are not worth their pictures.
    const isFlying = Math.abs(start - this.wasAt) > innerHeight / 2;
    this.wasAt = start;
    clearTimeout(this.filling);
    if (isFlying) this.filling = setTimeout(() => this.fill(), SETTLED_MS);
    else this.fill();
    const height = this.rows.at(-1) ? this.rows.at(-1).top + this.rows.at(-1).height : 0;
    if (this.hits.length && height + start < innerHeight * (1 + AHEAD)) this.more();
  }

  fill() {
    for (const image of this.box.querySelectorAll("img[data-src]")) {
      image.src = image.dataset.src;
      delete image.dataset.src;
    }
  }

  remove(key) {
    const node = this.drawn.get(key);
    // Without its address a picture that is still on its way is not waited for.
    for (const image of node.querySelectorAll("img")) image.removeAttribute("src");
    node.remove();
    this.drawn.delete(key);
  }

  keyOf(row) {
    return `${row.first}:${row.tiles.length}:${Math.round(row.top)}:${this.width}`;
  }

  place(key, row) {
    const node = el("div", {
      className: "row",
      data: { first: row.first },
      style: { transform: `translateY(${row.top}px)`, height: `${row.height}px` },
    });
    row.tiles.forEach((tile, n) => node.append(this.tile(row.first + n, tile, row.height)));
    // In reading order, for the tab key and for screen readers.
    const after = [...this.box.children].find((other) => Number(other.dataset.first) > row.first);
    this.box.insertBefore(node, after ?? null);
    this.drawn.set(key, node);
  }

  tile(index, { left, width }, height) {
    const hit = this.hits[index];
    const power = this.plain ? 1 : strength(this.isRelative ? { score: hit.score } : hit, this.best);
    const words = describe(hit);
    const image = el("img", {
      alt: words,
      decoding: "async",
      draggable: false,
      onload: () => {
        link.classList.add("shown");
        this.missing.delete(hit.id);
      },
      onerror: () => this.gone(link, hit),
    });
    image.dataset.src = thumbnail(hit, Math.max(width, height) * devicePixelRatio > 560 ? 1024 : 512);
    const label = el("span", { className: "label", attrs: { "aria-hidden": "true" } },
      el("span", { className: "words" }, words),
      this.plain ? null : el("span", { className: "score" }, figure(hit)),
    );
    const tick = el("span", { className: "tick", title: "Select (x)", attrs: { "aria-hidden": "true" } }, icon("tick"));
    const link = el("a", {
      className: "tile",
      href: this.href(hit),
      tabIndex: index === this.current ? 0 : -1,
      draggable: true,
      data: { index, id: hit.id },
      style: { left: `${left}px`, width: `${width}px`, "--power": power.toFixed(3) },
    }, image, label, tick);
    if (this.plain) link.classList.add("plain");
    this.mark(link, hit);
    return link;
  }

  /** Show whether a tile is selected. */
  mark(link, hit) {
    const isPicked = this.selection.has(hit.id);
    link.classList.toggle("picked", isPicked);
    if (isPicked) link.ariaDescription = "selected";
    else link.removeAttribute("aria-description");
  }

  /** The selection is another now. */
  markAll() {
    for (const link of this.box.querySelectorAll(".tile")) this.mark(link, this.hits[link.dataset.index]);
  }

  /** Select a picture, or no longer; or, with Shift, all from the one before to this. */
  pick(index, { isSpan = false } = {}) {
    this.select(index);
    if (isSpan) {
      const [from, to] = [this.anchor, index].sort((a, b) => a - b);
      this.selection.add(this.hits.slice(from, to + 1));
    } else {
      this.selection.toggle(this.hits[index]);
    }
    this.anchor = index;
  }

  skeleton() {
    const ratios = Array.from({ length: 40 }, (_, i) => 0.75 + ((i * 7919) % 10) / 10);
    const { rows, height } = justify(ratios, this.box.clientWidth || innerWidth, true);
    const bones = el("div", { className: "skeleton", attrs: { "aria-hidden": "true" } });
    for (const row of rows) {
      for (const { left, width } of row.tiles) {
        const style = { top: `${row.top}px`, left: `${left}px`, width: `${width}px`, height: `${row.height}px` };
        bones.append(el("i", { style }));
      }
    }
    this.box.replaceChildren(bones);
    this.drawn.clear();
    this.box.style.height = `${height}px`;
  }

  rowOf(index) {
    return this.rows.findIndex((row) => index >= row.first && index < row.first + row.tiles.length);
  }

  indexOf(id) {
    return this.hits.findIndex((hit) => hit.id === id);
  }

  /** Move the focus to a tile, drawing its row first if need be. */
  focus(index, { scroll = true } = {}) {
    const row = this.rows[this.rowOf(index)];
    if (!row) return false;
    this.select(index);
    if (scroll) {
      const top = this.box.getBoundingClientRect().top + row.top;
      const head = document.querySelector(".top").getBoundingClientRect().bottom + GAP;
      if (top < head) scrollBy({ top: top - head });
      else if (top + row.height > innerHeight - GAP) {
        scrollBy({ top: top + row.height - innerHeight + 4 * GAP });
      }
    }
    this.paint();
    const key = this.keyOf(row);
    if (!this.drawn.has(key)) this.place(key, row);
    this.box.querySelector(`[data-index="${index}"]`)?.focus({ preventScroll: true });
    return true;
  }

  select(index) {
    const old = this.box.querySelector('[tabindex="0"]');
    if (old) old.tabIndex = -1;
    this.current = index;
    const tile = this.box.querySelector(`[data-index="${index}"]`);
    if (tile) tile.tabIndex = 0;
  }

  onFocus(event) {
    const tile = event.target.closest(".tile");
    if (tile) this.select(Number(tile.dataset.index));
  }

  onClick(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.button !== 0) return;
    event.preventDefault();
    const index = Number(tile.dataset.index);
    const isPicking = event.metaKey || event.ctrlKey || event.target.closest(".tick");
    // On a phone, while some are selected, a touch selects.
    const isTouch = this.selection.size > 0 && matchMedia("(pointer: coarse)").matches;
    if (event.shiftKey) this.pick(index, { isSpan: true });
    else if (isPicking || isTouch) this.pick(index);
    else {
      this.select(index);
      this.onOpen(this.hits[index]);
    }
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const hit = this.hits[this.current];
    if (event.key === " " || event.key === "x") this.pick(this.current);
    else if (event.key === "X") this.pick(this.current, { isSpan: true });
    else if (event.key === "+" || event.key === "-") this.onSign(hit, event.key === "-");
    else if (event.key === "Escape" && this.selection.size) this.selection.clear();
    else {
      const next = this.step(event.key);
      if (next === null) return;
      if (next < 0) this.onLeave();
      else if (next < this.hits.length) this.focus(next);
    }
    event.preventDefault();
  }

  /** The tile that a key leads to, or null for a key that is not ours. */
  step(key) {
    const at = this.current;
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    if (key === "Home") return 0;
    if (key === "End") return this.rows.length ? this.rows.at(-1).first + this.rows.at(-1).tiles.length - 1 : 0;
    if (key === "ArrowUp") return this.vertically(-1) ?? -1;
    if (key === "ArrowDown") return this.vertically(1) ?? at;
    return null;
  }

  /** The tile above or below: in the column that was left by the same keys, so that up undoes down. */
  vertically(step) {
    const at = this.current;
    const here = this.column?.at === at ? this.column.middle : middleOf(this.rows, at);
    const next = beside(this.rows, at, step, here);
    if (next !== null) this.column = { at: next, middle: here };
    return next;
  }
}
