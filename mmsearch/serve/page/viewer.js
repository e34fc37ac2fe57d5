// One picture, large, with what is known of it.

import { Gone, captionsOf, file as fileOf, image as fetchImage, thumbnail } from "./api.js";
import { byId, copy, count, describe, el, number, size, when } from "./dom.js";
import { textRow } from "./captions.js";

const SHOWN_BY_BROWSERS = new Set(["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"]);
/** Past these a picture of 1024 pixels comes sooner and looks the same. */
const MAX_PIXELS = 40e6;
const MAX_BYTES = 25e6;
/** Small pictures are shown larger than they are, but not to the point of blur. */
const MAX_ZOOM = 2;
const SWIPE_PX = 60;
const FITTING_TEXTS = 5;
/** What is above the buttons stays short: so many further texts, so many letters of each at first. */
const FURTHER_TEXTS = 5;
const FIRST_LETTERS = 240;

export class Viewer {
  /**
   * onClose(), onTurn(+1 or -1), onLike(picture): search by it alone; onSign(picture, isMinus): make
   * it part of the question; onFolder(folder), onPick(picture) when it is to be selected or no
   * longer, isPicked(picture), hrefWords(text); onMissing() when a file does not come: the error of
   * the service, or null where it is there; onAway(error) when it is not, or asks for a key.
   */
  constructor(handlers) {
    Object.assign(this, handlers);
    this.dialog = byId("viewer");
    this.stage = byId("stage");
    this.image = byId("viewer-image");
    this.about = byId("viewer-about");
    this.picture = null;
    /** The picture did not come, because the service was away. */
    this.isMissing = false;
    byId("viewer-close").addEventListener("click", () => this.onClose());
    byId("viewer-back").addEventListener("click", () => this.onTurn(-1));
    byId("viewer-on").addEventListener("click", () => this.onTurn(1));
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.onClose();
    });
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    this.stage.addEventListener("click", (event) => {
      if (event.target === this.stage) this.onClose();
    });
    let start = null;
    this.stage.addEventListener("touchstart", ({ touches }) => {
      start = touches.length === 1 ? touches[0] : null;
    }, { passive: true });
    this.stage.addEventListener("touchend", ({ changedTouches: [end] }) => {
      if (!start) return;
      const x = end.clientX - start.clientX;
      const y = end.clientY - start.clientY;
      if (Math.abs(x) > SWIPE_PX && Math.abs(x) > 2 * Math.abs(y)) this.onTurn(x < 0 ? 1 : -1);
    }, { passive: true });
    new ResizeObserver(() => this.fit()).observe(this.stage);
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Show the picture with this id; `known` is its answer from a list, when there is one. */
  async open(id, known, { hasBefore, hasAfter }) {
    byId("viewer-back").disabled = !hasBefore;
    byId("viewer-on").disabled = !hasAfter;
    if (this.picture?.id === id && this.isOpen) return;
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.picture = null;
    if (!this.isOpen) {
      this.dialog.showModal();
      this.dialog.focus();
    }
    try {
      this.show(known ?? (await fetchImage(id, signal)), signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.image.hidden = true;
      this.away(error.message);
      this.about.replaceChildren();
      if (error instanceof Gone || error.status === 401) this.onAway(error);
    }
  }

  /** The service is back: ask again for what it did not give. */
  retry() {
    if (this.picture && this.isMissing) this.show(this.picture, this.abort.signal);
  }

  close() {
    this.abort?.abort();
    this.picture = null;
    this.image.removeAttribute("src");
    if (this.isOpen) this.dialog.close();
  }

  show(picture, signal) {
    this.picture = picture;
    this.image.hidden = false;
    this.image.alt = describe(picture);
    this.fit();
    this.load(picture);
    this.describe(picture, signal);
  }

  /** Its file: small, then large. If it does not come, once more, in case the service was away. */
  async load(picture, isAgain = false) {
    this.isMissing = false;
    this.away(null);
    this.image.src = thumbnail(picture);
    const isLight = picture.width * picture.height <= MAX_PIXELS && picture.bytes <= MAX_BYTES;
    const asFile = isLight && SHOWN_BY_BROWSERS.has(picture.format.toUpperCase());
    const full = new Image();
    full.src = asFile ? fileOf(picture) : thumbnail(picture, 1024);
    try {
      await full.decode();
      if (this.picture === picture) this.image.src = full.src;
    } catch {
      if (this.picture !== picture) return;
      const error = await this.onMissing();
      if (this.picture !== picture) return;
      if (!error && !isAgain) {
        this.load(picture, true);
        return;
      }
      this.isMissing = error !== null;
      this.away(error ? error.message : "The file of this picture cannot be read now.");
    }
  }

  away(text) {
    const note = byId("viewer-away");
    note.hidden = text === null;
    note.textContent = text ?? "";
  }

  fit() {
    if (!this.picture) return;
    const style = getComputedStyle(this.stage);
    const width = this.stage.clientWidth - parseFloat(style.paddingLeft) * 2;
    const height = this.stage.clientHeight - parseFloat(style.paddingTop) * 2;
    const zoom = Math.min(width / this.picture.width, height / this.picture.height, MAX_ZOOM);
    this.image.style.width = `${this.picture.width * zoom}px`;
    this.image.style.height = `${this.picture.height * zoom}px`;
  }

  describe(picture, signal) {
    const { captions, title, description, name } = picture;
    const heading = captions[0] ?? title ?? description ?? name;
    const further = [...new Set([...captions, title, description])].filter(
      (text) => text && text !== heading,
    );
    const fitting = el("div", { className: "fitting" });
    const paragraph = (text) =>
      this.passage("p", captions.includes(text) ? "further linked" : "further", text);
    const rest = further.slice(FURTHER_TEXTS);
    this.about.replaceChildren(
      this.passage("h2", captions.length ? "linked" : "", heading),
      captions.length ? el("p", { className: "by" }, "written for this picture") : "",
      ...further.slice(0, FURTHER_TEXTS).map(paragraph),
      rest.length ? this.more(`${number(rest.length)} more`, () => rest.map(paragraph)) : "",
      el("div", { className: "acts" },
        el("button", { type: "button", className: "main", onclick: () => this.onLike(picture) }, "More like this"),
        el("button", { type: "button", onclick: () => this.onSign(picture, true) }, "Less like this"),
        el("button", { type: "button", onclick: () => this.onSign(picture, false) }, "Add to the search"),
        this.pickButton(picture),
        el("a", { href: fileOf(picture), target: "_blank", rel: "noopener" }, "Open the file"),
      ),
      this.facts(picture),
      fitting,
    );
    this.about.scrollTop = 0;
    this.fitting(fitting, picture, signal);
  }

  /** A text; of a very long one the beginning, and a button that gives the rest. */
  passage(tag, className, text) {
    if (text.length <= 1.5 * FIRST_LETTERS) return el(tag, { className }, text);
    const rest = this.more("… all of it", () => [text.slice(FIRST_LETTERS)]);
    return el(tag, { className }, text.slice(0, FIRST_LETTERS), rest);
  }

  /** A button in whose place comes what make() gives. */
  more(label, make) {
    return el("button", {
      type: "button",
      className: "quiet",
      onclick: (event) => {
        event.currentTarget.replaceWith(...make());
        this.about.focus({ preventScroll: true });
      },
    }, label);
  }

  facts(picture) {
    const cut = Math.max(picture.path.lastIndexOf("/"), picture.path.lastIndexOf("\\"));
    const list = el("dl", { className: "facts" });
    const add = (term, ...values) => {
      if (values.some(Boolean)) list.append(el("dt", {}, term), el("dd", {}, ...values));
    };
    add("File", el("span", { className: "name" }, picture.path.slice(cut + 1)), copyButton(picture.path));
    if (cut > 0) {
      const folder = picture.path.slice(0, cut);
      add("Folder", el("span", { className: "folder" }, folder),
        el("button", { type: "button", className: "quiet", onclick: () => this.onFolder(folder) }, "in this folder"));
    }
    add("Taken", picture.taken_at && when(picture.taken_at));
    add("Camera", picture.camera);
    const pixels = `${number(picture.width)} × ${number(picture.height)}`;
    add("Size", `${pixels} · ${size(picture.bytes)} · ${picture.format}`);
    add("Keywords", picture.keywords.join(", "));
    add("Tags", (picture.tags ?? []).map((tag) => tag.name ?? tag).join(", "));
    if (typeof picture.latitude === "number" && typeof picture.longitude === "number") {
      add("Place", `${picture.latitude.toFixed(5)}, ${picture.longitude.toFixed(5)}`);
    }
    if (picture.copies.length) {
      const copies = picture.copies.map((path) => el("span", { className: "copy" }, path));
      add(count(picture.copies.length, "copy", "copies"), ...copies);
    }
    return list;
  }

  async fitting(box, picture, signal) {
    try {
      const { hits } = await captionsOf(picture.id, FITTING_TEXTS, signal);
      const others = hits.filter((hit) => !hit.linked);
      if (signal.aborted || others.length === 0) return;
      const best = Math.max(...hits.map((hit) => hit.score ?? 0));
      box.append(
        el("h3", {}, "Texts of your library that fit"),
        el("ol", { className: "texts" }, ...others.map((hit) => textRow(hit, best, this.hrefWords))),
      );
    } catch (error) {
      // The picture itself is shown; what else fits is an extra, and its absence says enough.
      if (error.name !== "AbortError") box.replaceChildren();
    }
  }

  pickButton(picture) {
    const button = el("button", {
      type: "button",
      ariaPressed: String(this.isPicked(picture)),
      onclick: () => {
        this.onPick(picture);
        this.marked();
      },
    });
    this.picker = button;
    this.marked(picture);
    return button;
  }

  /** Whether it is selected is another now. */
  marked(picture = this.picture) {
    if (!this.picker || !picture) return;
    const isPicked = this.isPicked(picture);
    this.picker.ariaPressed = String(isPicked);
    this.picker.textContent = isPicked ? "Selected" : "Select";
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (this.picture && event.key === "x") this.picker.click();
    else if (this.picture && (event.key === "+" || event.key === "-")) {
      event.preventDefault();
      this.onSign(this.picture, event.key === "-");
    }
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (turn) {
      event.preventDefault();
      this.onTurn(turn);
    }
  }
}

function copyButton(text) {
  return el("button", {
    type: "button",
    className: "quiet",
    onclick: (event) => copy(text, event.currentTarget),
  }, "copy path");
}
