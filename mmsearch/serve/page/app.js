// The page: what is asked stands in the address, and everything shown follows from it.
//   ?q=words  &like=picture id (or drop-N: a picture given in this tab)  &view=captions  &pic=id

import * as api from "./api.js";
import { Captions } from "./captions.js";
import { byId, count, el, number, wait } from "./dom.js";
import { Grid } from "./grid.js";
import { noteEmptyLibrary, noteError, noteLostPicture, noteNoTexts, noteNothing, showNote } from "./notes.js";
import { takePictures } from "./take.js";
import { Viewer } from "./viewer.js";

const TYPING_PAUSE_MS = 160;
const KEPT_LISTS = 12;
const STATUS_EVERY_MS = 30_000;
const WARMING_EVERY_MS = 1_500;
const RETRY_MS = [1_000, 2_000, 3_000, 5_000];
/** The start shows some of the collection; words this general favour none. */
const ANYTHING = "a photo";

const words = byId("words");
const said = byId("said");
const dropped = new Map();
const lists = new Map();
let info = null;
let state = read();
let shownKey = null;
let typingTimer = 0;
let isTyping = false;
let wall = null;

// ---- the address ---------------------------------------------------------------------------

function read() {
  const from = new URLSearchParams(location.search);
  const id = (text) => (/^\d{1,18}$/.test(text ?? "") ? Number(text) : null);
  const like = from.get("like");
  return {
    q: (from.get("q") ?? "").slice(0, 2000),
    like: like?.startsWith("drop-") ? like : id(like),
    view: from.get("view") === "captions" ? "captions" : "pictures",
    pic: id(from.get("pic")),
  };
}

function href(change = {}) {
  const { q, like, view, pic } = { ...state, ...change };
  const to = new URLSearchParams();
  if (q) to.set("q", q);
  if (like !== null) to.set("like", like);
  if (view !== "pictures") to.set("view", view);
  if (pic !== null) to.set("pic", pic);
  const text = to.toString();
  return text ? `/?${text}` : "/";
}

function go(change, { replace = false } = {}) {
  const to = href(change);
  const isHere = to === location.pathname + location.search;
  if (replace || isHere) {
    history.replaceState(history.state, "", to);
  } else {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
    history.pushState({ inside: true }, "", to);
  }
  state = { ...state, ...change };
  if (!isLost && !hadProblem) tell(null);
  render();
}

const keyOf = ({ q, like }) => JSON.stringify([q.trim(), like]);

function keep() {
  if (shownKey === null || grid.hits.length === 0 || grid.box.classList.contains("stale")) return;
  lists.delete(shownKey);
  lists.set(shownKey, { ...grid.keep(), said: said.textContent });
  if (lists.size > KEPT_LISTS) lists.delete(lists.keys().next().value);
}

// ---- what is asked -------------------------------------------------------------------------

/** The picture of the question, as the service wants it; undefined when its file is lost. */
function likeOf(like) {
  if (like === null) return null;
  if (typeof like === "number") return { id: like };
  return dropped.get(like);
}

function preview() {
  const like = likeOf(state.like);
  if (!like) return null;
  const src = like.file ? like.src : `/v1/images/${like.id}/thumbnail?size=512`;
  return { src, alt: like.file ? `Your picture ${like.file.name}` : "The picture asked about" };
}

function useFile(file) {
  if (!file) return;
  const limit = info?.limits.max_upload_bytes ?? Infinity;
  if (file.size > limit) {
    tell(`This picture has ${(file.size / 2 ** 20).toFixed(0)} MiB; the service takes up to ${(limit / 2 ** 20).toFixed(0)} MiB.`);
    return;
  }
  const name = `drop-${dropped.size + 1}`;
  dropped.set(name, { file, src: URL.createObjectURL(file) });
  go({ like: name, pic: null });
  scrollTo(0, 0);
}

// ---- showing -------------------------------------------------------------------------------

function tell(text, { retry = null } = {}) {
  byId("banner").hidden = !text;
  byId("banner-text").textContent = text ?? "";
  byId("banner-retry").hidden = retry === null;
  byId("banner-retry").onclick = retry;
}

function render({ fresh = false, scroll = null } = {}) {
  const { q, like, view, pic } = state;
  const asks = Boolean(q.trim()) || like !== null;
  const isCaptions = view === "captions";
  if (document.activeElement !== words || !isTyping) words.value = q;
  words.placeholder = like !== null ? "and in words…" : isCaptions ? "Words, or a picture" : "What are you looking for?";
  document.body.classList.toggle("home", !asks && !isCaptions);
  document.body.classList.toggle("is-captions", isCaptions);
  document.title = q.trim() ? `${q.trim()} · mmsearch` : "mmsearch";
  for (const [id, name] of [["view-pictures", "pictures"], ["view-captions", "captions"]]) {
    byId(id).href = href({ view: name, pic: null });
    if (name === view) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  showChip();
  byId("pictures").hidden = isCaptions;
  byId("captions").hidden = !isCaptions;

  const key = isCaptions ? `captions ${keyOf(state)}` : keyOf(state);
  if (key !== shownKey || fresh) {
    if (!shownKey?.startsWith("captions")) keep();
    shownKey = key;
    show(asks, isCaptions, fresh);
  }
  if (scroll !== null) scrollTo(0, scroll);
  showPicture(pic);
}

function showChip() {
  const shown = preview();
  byId("chip").hidden = state.like === null;
  byId("chip-image").hidden = !shown;
  if (shown) Object.assign(byId("chip-image"), shown);
}

function show(asks, isCaptions, fresh) {
  showNote();
  byId("tail").textContent = "";
  byId("aside").replaceChildren();
  captions.stop();
  if (info && info.images === 0 && !(isCaptions && info.texts > 0)) {
    showEmpty();
    return;
  }
  if (state.like !== null && likeOf(state.like) === undefined) {
    grid.empty();
    captions.invite();
    said.textContent = "";
    noteLostPicture();
    return;
  }
  if (isCaptions) showCaptions(asks);
  else if (asks) showResults(fresh);
  else showWall();
}

function showResults(fresh) {
  grid.plain = false;
  const kept = fresh ? null : lists.get(shownKey);
  if (kept) {
    grid.restore(kept);
    said.textContent = kept.said;
    showTail();
    return;
  }
  said.textContent = "";
  const asked = { q: state.q.trim(), like: likeOf(state.like) };
  grid.start((k, offset, signal) => api.pictures(asked, { k, offset }, signal));
}

function showWall() {
  said.textContent = "";
  grid.plain = true;
  if (wall) {
    grid.restore(wall);
    showIdeas(wall.hits);
    return;
  }
  // Another part of the collection at each visit.
  const depth = Math.min(info?.images ?? 0, info?.limits.max_offset ?? 0);
  const begin = Math.floor(Math.random() * Math.max(0, depth - 60));
  grid.start((k, offset, signal) =>
    api.pictures({ q: ANYTHING, like: null }, { k, offset: Math.min(begin + offset, grid.maxOffset()) }, signal),
  );
}

function showIdeas(hits) {
  const ideas = [...new Set(hits.flatMap((hit) => hit.captions))]
    .filter((text) => text.length <= 48)
    .slice(0, 3);
  const links = ideas.map((text) => el("a", { href: href({ q: text }), data: { go: "" } }, text));
  byId("aside").replaceChildren(
    links.length ? "Try " : "Type words, or drop a picture anywhere.",
    ...links.flatMap((link, i) => (i ? [" · ", link] : [link])),
    links.length ? el("span", { className: "or" }, " · or drop a picture anywhere") : "",
  );
}

function showCaptions(asks) {
  grid.stop();
  said.textContent = "";
  if (info && info.texts === 0) {
    captions.box.replaceChildren();
    noteNoTexts();
    return;
  }
  if (!asks) captions.invite();
  else captions.show({ q: state.q.trim(), like: likeOf(state.like) }, preview());
}

function showEmpty() {
  grid.empty();
  captions.box.replaceChildren();
  said.textContent = "";
  noteEmptyLibrary();
}

function showTail() {
  const n = grid.hits.length;
  let text = "";
  if (grid.cut) text = `These are the best ${number(n)}. More words find what is further down.`;
  else if (grid.ended && n > 12) text = "That is all.";
  byId("tail").textContent = text;
}

function sayPictures(page) {
  const total = info ? Math.max(info.images, grid.hits.length) : grid.hits.length;
  const ms = page.took_ms < 10 ? page.took_ms.toFixed(1) : Math.round(page.took_ms);
  said.textContent = `${count(total, "picture")}, the best match first`;
  byId("aside").textContent = `found in ${ms} ms`;
}

function failed(error) {
  if (error instanceof api.Gone) {
    lost();
    return;
  }
  said.textContent = "";
  noteError(error, () => render({ fresh: true }));
}

// ---- parts ---------------------------------------------------------------------------------

const grid = new Grid(byId("grid"), {
  href: (hit) => href({ pic: hit.id }),
  maxOffset: () => info?.limits.max_offset ?? 10_000,
  onOpen: (hit) => go({ pic: hit.id }),
  onLeave: () => words.focus(),
  onError: failed,
  onChange(page) {
    // A picture that was open before its list came has neighbours now.
    if (state.pic !== null) showPicture(state.pic);
    if (grid.plain) {
      wall = grid.keep();
      if (page.offset === 0 || grid.hits.length <= page.k) showIdeas(grid.hits);
      return;
    }
    if (page.offset === 0) sayPictures(page);
    if (grid.hits.length === 0) {
      said.textContent = "No pictures";
      noteNothing();
    }
    showTail();
  },
});

const captions = new Captions(byId("captions"), {
  hrefWords: (text) => href({ q: text.slice(0, 2000), like: null, view: "pictures", pic: null }),
  hrefPicture: (id) => href({ pic: id }),
  onPick: () => byId("file").click(),
  onError: failed,
  onResults({ hits }) {
    const linked = hits.filter((hit) => hit.linked).length;
    said.textContent = hits.length === 0 ? "No texts"
      : linked ? `${count(linked, "text")} of its own, then others that fit` : "Texts of your library, the best first";
  },
});

const viewer = new Viewer({
  hrefWords: captions.hrefWords,
  onClose: () => (history.state?.inside ? history.back() : go({ pic: null }, { replace: true })),
  onLike: (picture) => leaveViewer({ q: "", like: picture.id, view: "pictures" }),
  onAdd: (picture) => leaveViewer({ like: picture.id, view: "pictures" }),
  onTurn(step) {
    const next = grid.hits[grid.indexOf(state.pic) + step];
    if (next && grid.indexOf(state.pic) >= 0) go({ pic: next.id }, { replace: true });
  },
});

function leaveViewer(change) {
  go({ ...change, pic: null });
  scrollTo(0, 0);
}

function showPicture(id) {
  if (id === null) {
    const was = viewer.picture?.id;
    if (!viewer.isOpen) return;
    viewer.close();
    const index = grid.indexOf(was);
    if (index >= 0 && state.view === "pictures") grid.focus(index);
    return;
  }
  const index = state.view === "pictures" ? grid.indexOf(id) : -1;
  if (index >= 0) grid.select(index);
  // Turning to the last picture known asks for the next page.
  if (index >= 0 && index > grid.hits.length - 4) grid.more();
  viewer.open(id, grid.hits[index], {
    hasBefore: index > 0,
    hasAfter: index >= 0 && index < grid.hits.length - 1,
  });
}

// ---- the service, and whether it is there ---------------------------------------------------

let isLost = false;
let hadProblem = false;

async function lost() {
  if (isLost) return;
  isLost = true;
  let skip = () => {};
  const retry = () => skip();
  for (let tries = 0; ; tries += 1) {
    tell("mmsearch does not answer. Was it stopped? This page goes on by itself once it is back.", { retry });
    const pause = wait(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
    await Promise.race([pause, new Promise((resolve) => { skip = resolve; })]);
    if (await api.healthy()) break;
  }
  isLost = false;
  tell(null);
  await refresh();
  if (state.view === "captions" || grid.hits.length === 0) render({ fresh: true });
  else grid.retry();
}

async function refresh() {
  const before = info;
  try {
    info = await api.status();
  } catch (error) {
    if (error instanceof api.Gone) lost();
    else if (info === null) failed(error);
    return;
  }
  showHoldings();
  if (before && (before.images === 0) !== (info.images === 0)) render({ fresh: true });
  if (before && before.images !== info.images) wall = null;
}

function showHoldings() {
  const model = info.model ? `${info.model}${info.ready ? "" : info.problem ? "" : " (loading)"}` : "no model yet";
  byId("holds").textContent = `${count(info.images, "picture")} · ${count(info.texts, "text")} · ${model}`;
  if (info.problem) tell(info.problem);
  else if (hadProblem) tell(null);
  hadProblem = Boolean(info.problem);
}

async function watch() {
  for (;;) {
    const isWaiting = info && (info.images === 0 || (!info.ready && !info.problem));
    await wait(isWaiting ? WARMING_EVERY_MS : STATUS_EVERY_MS);
    if (!document.hidden && !isLost) await refresh();
  }
}

// ---- hands ---------------------------------------------------------------------------------

function typed() {
  clearTimeout(typingTimer);
  const change = { q: words.value, pic: null };
  if (change.q.trim() === state.q.trim()) return;
  // One entry of the history for one go at the words, not one for each letter.
  const replace = isTyping;
  isTyping = true;
  go(change, { replace });
  scrollTo(0, 0);
}

words.addEventListener("input", (event) => {
  clearTimeout(typingTimer);
  if (!event.isComposing) typingTimer = setTimeout(typed, words.value ? TYPING_PAUSE_MS : 0);
});
words.addEventListener("compositionend", () => { typingTimer = setTimeout(typed, TYPING_PAUSE_MS); });
words.addEventListener("blur", () => { typed(); isTyping = false; });
words.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && state.view === "pictures" && grid.focus(grid.current)) {
    event.preventDefault();
  } else if (event.key === "Escape") {
    words.blur();
  } else if (event.key === "Backspace" && words.value === "" && state.like !== null) {
    go({ like: null });
  }
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  typed();
  isTyping = false;
});
byId("chip-remove").addEventListener("click", () => {
  go({ like: null });
  words.focus();
});
byId("file").addEventListener("change", (event) => {
  useFile(event.target.files[0]);
  event.target.value = "";
});

document.addEventListener("keydown", (event) => {
  const isWriting = event.target.matches?.("input, textarea");
  if (event.key === "/" && !isWriting && !viewer.isOpen && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key.startsWith("Arrow") && event.target === document.body && state.view === "pictures") {
    if (grid.focus(grid.current)) event.preventDefault();
  }
});
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-go], .views a, #home");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  if (link.href !== location.href) {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
    history.pushState({ inside: true }, "", link.href);
    state = read();
  }
  render();
  if (state.pic === null) scrollTo(0, 0);
});
takePictures({
  onFile: useFile,
  onId: (id) => go({ like: id, pic: null }),
  invitation: () => (state.view === "captions"
    ? "Let go to find texts for this picture" : "Let go to search by this picture"),
});

addEventListener("popstate", (event) => {
  clearTimeout(typingTimer);
  isTyping = false;
  const old = keyOf(state) + state.view;
  state = read();
  render({ scroll: old === keyOf(state) + state.view ? null : (event.state?.scroll ?? 0) });
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && info && !isLost) refresh(); });
history.scrollRestoration = "manual";

await refresh();
render();
if (!state.q && state.like === null && matchMedia("(pointer: fine)").matches) words.focus();
watch();
