// The second view: the texts of the library that describe a picture, or that words lead to.

import { thumbnail } from "./api.js";
import { el, figure, keepFocus, strength } from "./dom.js";

const FIRST = 20;
const MORE = 100;
const THUMBS = 4;

/** One text with how well it fits; following it searches pictures by its words. */
export function textRow(hit, best, hrefWords) {
  const power = strength(hit, best);
  const row = el("li", {
    className: hit.linked ? "text linked" : "text",
    style: { "--power": power.toFixed(3) },
  }, el("a", { href: hrefWords(hit.text), data: { go: "" } }, hit.text));
  if (hit.linked) row.append(el("span", { className: "by" }, "written for this picture"));
  if (figure(hit)) row.append(el("span", { className: "score", title: "how well it fits" }, figure(hit)));
  return row;
}

export class Captions {
  /**
   * onResults(answer), onError(error), onPick(), onAll() for what matches too weakly, hrefWords(text),
   * hrefPicture(id).
   */
  constructor(box, handlers) {
    Object.assign(this, { box }, handlers);
  }

  /** Nothing was asked yet: invite. */
  invite() {
    this.stop();
    this.box.classList.remove("with-picture");
    this.box.replaceChildren(
      el("button", { type: "button", className: "invite", onclick: () => this.onPick() },
        el("strong", {}, "Drop a picture here"),
        el("span", {}, "or paste one, or choose one. The texts of your library that describe it come up."),
      ),
    );
  }

  stop() {
    this.abort?.abort();
    this.box.removeAttribute("aria-busy");
  }

  /** load(k, signal) gives the texts; preview: {src, alt} of the picture asked about, or null. */
  async show(load, preview, k = FIRST) {
    this.stop();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.box.setAttribute("aria-busy", "true");
    // Texts for other words may stay, dimmed; not beside another picture.
    const isOther = preview?.src !== this.shownFor;
    if (isOther || !this.box.querySelector(".texts")) this.frame(preview, bones());
    try {
      const answer = await load(k, signal);
      if (signal.aborted) return;
      keepFocus(() => this.fill(load, preview, answer, k));
      this.onResults(answer);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      this.box.replaceChildren();
      this.onError(error);
    } finally {
      if (!signal.aborted) this.box.removeAttribute("aria-busy");
    }
  }

  frame(preview, ...content) {
    this.shownFor = preview?.src;
    const alone = () => {  // the browser cannot show it (HEIC)
      side.remove();
      this.box.classList.remove("with-picture");
    };
    const side = preview ? el("figure", {}, el("img", { src: preview.src, alt: preview.alt, onerror: alone })) : null;
    this.box.replaceChildren(...[side, el("div", { className: "found" }, ...content)].filter(Boolean));
    this.box.classList.toggle("with-picture", Boolean(side));
  }

  fill(load, preview, { hits, cut }, k) {
    const best = Math.max(...hits.map((hit) => hit.score ?? 0));
    const rows = hits.map((hit) => {
      const row = textRow(hit, best, this.hrefWords);
      const others = hit.image_ids.slice(0, THUMBS);
      if (others.length) {
        row.append(el("span", { className: "thumbs" }, ...others.map((id) => this.thumb(id, hit.text))));
      }
      return row;
    });
    const more = hits.length >= k && k < MORE
      ? el("button", { type: "button", className: "plain", onclick: () => this.show(load, preview, MORE) }, "Show more")
      : null;
    const weaker = hits.length > 0 && hits.length < k && cut > 0
      ? el("p", { className: "tail" }, "What is left matches less surely. ",
        el("button", { type: "button", className: "more", onclick: () => this.onAll() }, "Show it all the same"))
      : null;
    this.frame(preview, el("ol", { className: "texts large" }, ...rows), more, weaker);
  }

  thumb(id, text) {
    const image = el("img", {
      alt: `A picture that this was written for: ${text}`,
      loading: "lazy",
      src: thumbnail({ id }, 128),
      onerror: () => link.remove(),
    });
    const link = el("a", { href: this.hrefPicture(id), data: { go: "" } }, image);
    return link;
  }
}

function bones() {
  const lines = Array.from({ length: 6 }, () => el("i"));
  return el("div", { className: "bones", attrs: { "aria-hidden": "true" } }, ...lines);
}
