// The page: what is asked stands in the address (address.js), and everything shown follows from it.

import { MAX_PICTURES, asks, href as hrefOf, keyOf, read } from "./address.js";
import * as api from "./api.js";
import { Captions } from "./captions.js";
import { byId, count, el, keepFocus, number } from "./dom.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Holdings } from "./holdings.js";
import {
  isFinal, noteEmptyLibrary, noteError, noteLostPictures, noteNoTexts, noteNothing, noteUnclear, showNote,
} from "./notes.js";
import { Parts } from "./parts.js";
import { Unclear, asLine, asWords, leastRelevance, parseQuery } from "./question.js";
import { Selection } from "./selection.js";
import { takePictures } from "./take.js";
import { Viewer } from "./viewer.js";
import { inFolder } from "./where.js";

const TYPING_PAUSE_MS = 110;
const KEPT_LISTS = 12;
const MAX_UPLOADS = 10;
/** Longer captions are no searches that one would try. */
const MAX_IDEA = 36;
/** The start shows some of the collection; words this general favour none. */
const ANYTHING = { text: "a photo", weight: 1 };
/** Part of the names of given pictures: an address from before a reload, or of others, means none. */
const LOAD = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);

const words = byId("words");
const said = byId("said");
const dropped = new Map();
const lists = new Map();
let state = read();
let shownKey = null;
let typingTimer = 0;
let isTyping = false;
let wall = null;
/** What matches less surely than this was not asked for. */
let least = 0;
/** What is shown was found before the library changed. */
let isOutdated = false;

const info = () => holdings.info;
const href = (change = {}) => hrefOf({ ...state, ...change });

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
  if (!holdings.isLost && !holdings.hadProblem) tell(null);
  render();
}

/** Another question: it begins at its top, without what is too weak, and nothing is open. */
function ask(change, options) {
  go({ all: false, pic: null, ...change }, options);
  scrollTo(0, 0);
}

function keep() {
  if (isOutdated || shownKey === null || grid.hits.length === 0 || grid.box.classList.contains("stale")) return;
  lists.delete(shownKey);
  lists.set(shownKey, { ...grid.keep(), aside: byId("aside").textContent });
  if (lists.size > KEPT_LISTS) lists.delete(lists.keys().next().value);
}

// ---- what is asked -------------------------------------------------------------------------

/** A picture of the question by its name in the address; undefined when its file is lost. */
const fileOf = (name) => dropped.get(name);

function preview(name) {
  if (typeof name === "number") {
    return { src: api.thumbnail({ id: name }, 256), alt: `picture ${name} of the library` };
  }
  const given = fileOf(name);
  return given ? { src: given.src, alt: `Your picture ${given.file.name}`, file: given.file.name } : null;
}

const isLostPicture = (name) => typeof name === "string" && !fileOf(name);

/** The parts of the question, as the service wants them. Raises Unclear. */
function parts({ q, like, unlike }) {
  const picture = (name, weight) =>
    (typeof name === "number" ? { image_id: name, weight } : { file: fileOf(name).file, weight });
  const all = [
    ...(q.trim() ? parseQuery(asLine(q)) : []),
    ...like.map((name) => picture(name, 1)),
    ...unlike.map((name) => picture(name, -1)),
  ];
  // Where nothing is wanted but only avoided, anything else will do.
  return all.some(({ weight }) => weight > 0) ? all : [ANYTHING, ...all];
}

function useFiles(files, isMinus) {
  const limit = info()?.limits.max_upload_bytes ?? Infinity;
  const names = [];
  for (const file of files) {
    if (file.size > limit) {
      tell(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB; the service takes up to ${(limit / 2 ** 20).toFixed(0)} MiB.`);
      return;
    }
    const name = `drop-${LOAD}-${dropped.size + 1}`;
    dropped.set(name, { file, src: URL.createObjectURL(file) });
    names.push(name);
  }
  if (names.length) givePictures(names, isMinus);
}

/** In the second view one picture takes the place of the other. */
function givePictures(names, isMinus) {
  if (state.view === "captions") ask({ like: names.slice(0, MAX_UPLOADS), unlike: [] });
  else addPictures(names, isMinus);
}

/** Make pictures part of the question. Those given take the place of such as are lost. */
function addPictures(names, isMinus) {
  const [mine, other] = isMinus ? ["unlike", "like"] : ["like", "unlike"];
  const isGiven = names.some(fileOf);
  const stays = (name) => !names.includes(name) && !(isGiven && isLostPicture(name));
  const list = [...state[mine].filter(stays), ...names];
  const others = state[other].filter(stays);
  const uploads = [...list, ...others].filter((name) => typeof name === "string");
  if (list.length > MAX_PICTURES || uploads.length > MAX_UPLOADS) {
    tell(`A question takes up to ${MAX_UPLOADS} pictures of your own and ${MAX_PICTURES} of the library.`);
    return;
  }
  ask({ [mine]: list, [other]: others, view: "pictures" });
}

// ---- showing -------------------------------------------------------------------------------

function tell(text, { act = null, label = "Try again" } = {}) {
  byId("banner").hidden = !text;
  byId("banner-text").textContent = text ?? "";
  byId("banner-retry").hidden = act === null;
  byId("banner-retry").textContent = label;
  byId("banner-retry").onclick = act;
}

function render({ fresh = false, scroll = null } = {}) {
  const { q, like, unlike, where, view, pic } = state;
  const isAsking = asks(state);
  const isCaptions = view === "captions";
  if (document.activeElement !== words || !isTyping) words.value = q;
  words.placeholder = like.length + unlike.length > 0 ? "and in words…"
    : isCaptions ? "Words, or a picture" : "What are you looking for?";
  document.body.classList.toggle("home", !isAsking && !isCaptions && !where);
  document.body.classList.toggle("is-captions", isCaptions);
  document.title = q.trim() ? `${q.trim()} · mmsearch` : "mmsearch";
  for (const [id, name] of [["view-pictures", "pictures"], ["view-captions", "captions"]]) {
    byId(id).href = href({ view: name, pic: null });
    if (name === view) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  partsShown.show(state);
  filters.show(where, !isCaptions && (info()?.images ?? 0) > 0);
  byId("pictures").hidden = isCaptions;
  byId("captions").hidden = !isCaptions;

  const key = isCaptions ? `captions ${keyOf(state)}` : keyOf(state);
  if (key !== shownKey || fresh) {
    if (!shownKey?.startsWith("captions")) keep();
    shownKey = key;
    keepFocus(() => show(isAsking, isCaptions, fresh));
  }
  if (scroll !== null) scrollTo(0, scroll);
  keepFocus(() => showPicture(pic));
}

function show(isAsking, isCaptions, fresh) {
  isOutdated = false;
  showNote();
  said.classList.remove("unseen");
  byId("tail").textContent = "";
  byId("aside").replaceChildren();
  captions.stop();
  if (info() && info().images === 0 && !(isCaptions && info().texts > 0)) {
    empty();
    noteEmptyLibrary();
    return;
  }
  const lost = [...state.like, ...state.unlike].filter(isLostPicture);
  if (lost.length) {
    empty();
    noteLostPictures(lost.length, { onWithout: () => leaveOut(lost) });
    return;
  }
  let asked;
  try {
    asked = parts(state);
  } catch (error) {
    if (!(error instanceof Unclear)) throw error;
    showUnclear(error, isCaptions);
    return;
  }
  least = state.all || asked[0] === ANYTHING ? 0 : leastRelevance(asked);
  if (isCaptions) showCaptions(isAsking, asked);
  else if (isAsking) showResults(asked, fresh);
  else showWall();
}

/** In the middle of typing what was found stays. */
function showUnclear(error, isCaptions) {
  grid.stop();
  said.textContent = error.message;
  if (isTyping && (isCaptions || grid.hits.length > 0)) return;
  empty();
  noteUnclear(error.message);
  sayOnly(error.message);
}

function showResults(asked, fresh) {
  grid.plain = false;
  grid.isRelative = least === 0 && !state.all;
  const kept = fresh ? null : lists.get(shownKey);
  if (kept) {
    grid.restore(kept);
    byId("aside").textContent = kept.aside;
    sayPictures();
    return;
  }
  said.textContent = "";
  const { where } = state;
  const min_relevance = least;
  grid.start((k, offset, signal) => api.search(asked, { where, min_relevance, k, offset }, signal));
}

/** Nothing is asked: look around, in all or in what the filter lets through. */
function showWall() {
  said.textContent = "";
  grid.plain = true;
  const { where } = state;
  if (wall && !where) {
    grid.restore(wall);
    showIdeas(wall.hits);
    return;
  }
  // Another part of the collection at each visit.
  const depth = where ? 0 : Math.min(info()?.images ?? 0, info()?.limits.max_offset ?? 0);
  const begin = Math.floor(Math.random() * Math.max(0, depth - 60));
  grid.start((k, offset, signal) => api.search([ANYTHING],
    { where, words: false, k, offset: Math.min(begin + offset, grid.maxOffset()) }, signal));
}

function showIdeas(hits) {
  const ideas = [...new Set(hits.flatMap((hit) => hit.captions))]
    .filter((text) => text.length <= MAX_IDEA)
    .slice(0, 3);
  const links = ideas.map((text) => el("a", { href: href({ q: asWords(text) }), data: { go: "" } }, text));
  byId("aside").replaceChildren(
    links.length ? "Try " : "Type words, or drop a picture anywhere.",
    ...links.flatMap((link, i) => (i ? [" · ", link] : [link])),
    links.length ? el("span", { className: "or" }, " · or drop a picture anywhere") : "",
  );
}

function showCaptions(isAsking, asked) {
  grid.stop();
  said.textContent = "";
  if (info() && info().texts === 0) {
    captions.box.replaceChildren();
    noteNoTexts();
    return;
  }
  if (!isAsking) {
    captions.invite();
    return;
  }
  const [first] = state.like;
  const isOneOfOurs = asked.length === 1 && typeof first === "number";
  const min_relevance = least;
  captions.show((k, signal) => (isOneOfOurs
    ? api.captionsOf(first, k, signal) : api.search(asked, { modality: "text", min_relevance, k }, signal)),
  first === undefined ? null : preview(first));
}

function empty() {
  grid.empty();
  captions.box.replaceChildren();
  said.textContent = "";
}

/** Say what is already to be read elsewhere. */
function sayOnly(text) {
  said.classList.add("unseen");
  said.textContent = text;
}

function sayPictures() {
  const n = grid.hits.length;
  const { allowed } = grid;
  const isLoose = least === 0 || n === 0 || typeof grid.hits[0].relevance !== "number";
  const among = state.where ? `of ${number(allowed)} that pass` : `of ${number(allowed)}`;
  if (n === 0) said.textContent = "No pictures";
  else if (grid.plain) said.textContent = count(allowed, "picture");
  // A picture that is asked about is none of the answers.
  else if (isLoose && grid.ended && !grid.isDeep) said.textContent = `${count(n, "picture")}, the nearest first`;
  else if (isLoose) said.textContent = `${count(allowed, "picture")}, the nearest first`;
  else if ((grid.ended || n === allowed) && !grid.isDeep) said.textContent = `${count(n, "picture")} ${among}, the nearest first`;
  else said.textContent = `More than ${number(n)} pictures ${among}, the nearest first`;
  const tail = byId("tail");
  if (grid.isDeep) tail.textContent = `These are the best ${number(n)}. More words find what is further down.`;
  else if (grid.ended && grid.cut > 0 && n > 0) {
    tail.replaceChildren("What is left matches less surely. ",
      el("button", { type: "button", className: "more", onclick: () => go({ all: true }) }, "Show it all the same"));
  } else tail.textContent = grid.ended && n > 12 ? "That is all." : "";
}

function sayTook({ took_ms: took, hits }) {
  byId("aside").textContent = hits.length === 0 ? "" : `found in ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`;
}

function failed(error) {
  if (error instanceof api.Gone) {
    holdings.lost();
    return;
  }
  if (error.status === 401) {
    holdings.refused();
    return;
  }
  const isOurs = (name) => typeof name === "number";
  // A picture that is gone is one of the library; of all else one's own may be the cause.
  const isSuspect = (name) => isOurs(name) === (error.status === 404);
  const suspects = [...state.like, ...state.unlike].filter(isSuspect);
  noteRefused(error, suspects);
  if (suspects.length > 1 && isFinal(error)) blame(error, suspects);
}

function noteRefused(error, pictures, told) {
  sayOnly((told ?? [error.message]).join(" "));
  const several = told ? "them" : error.status === 404 ? "the pictures" : "your pictures";
  noteError(error, {
    told,
    without: pictures.length === 1 ? "the picture" : several,
    onRetry: () => render({ fresh: true }),
    onWithout: pictures.length ? () => leaveOut(pictures) : null,
    onUnfiltered: state.where ? () => ask({ where: "" }) : null,
  });
}

/** Of several pictures find those at fault, so that the others need not be given again. */
async function blame(error, suspects) {
  const key = shownKey;
  const alone = await Promise.allSettled(suspects.map((name) => (typeof name === "number"
    ? api.image(name) : api.search([{ file: fileOf(name).file, weight: 1 }], { k: 1 }))));
  const isBad = (_, at) => alone[at].status === "rejected" && isFinal(alone[at].reason);
  const bad = suspects.filter(isBad);
  if (shownKey !== key || byId("note").hidden || bad.length === 0) return;
  const reasons = alone.filter(isBad).map(({ reason }) => reason.message.replace(/^the picture: /, ""));
  noteRefused(error, bad, bad.map((name, at) => (typeof name === "number"
    ? reasons[at] : `${fileOf(name).file.name}: ${reasons[at]}`)));
}

function leaveOut(names) {
  const stays = (name) => !names.includes(name);
  ask({ like: state.like.filter(stays), unlike: state.unlike.filter(stays) });
}

// ---- the parts of the page -----------------------------------------------------------------

const selection = new Selection({
  onChange() {
    grid.markAll();
    viewer.marked();
  },
  onLike: (ids) => ask({ q: "", like: ids.slice(0, MAX_PICTURES), unlike: [], view: "pictures" }),
  onUnlike: (ids) => addPictures(ids.slice(0, MAX_PICTURES), true),
});

const grid = new Grid(byId("grid"), {
  selection,
  href: (hit) => href({ pic: hit.id }),
  maxOffset: () => info()?.limits.max_offset ?? 10_000,
  onOpen: (hit) => go({ pic: hit.id }),
  onSign: (hit, isMinus) => addPictures([hit.id], isMinus),
  onLeave: () => words.focus(),
  onMissing: () => holdings.doubt(),
  onError: failed,
  onChange(page) {
    // A picture that was open before its list came has neighbours now.
    if (state.pic !== null) showPicture(state.pic);
    if (grid.plain && !state.where) {
      if (!isOutdated) wall = grid.keep();
      if (page.offset === 0 || grid.hits.length <= page.k) showIdeas(grid.hits);
      return;
    }
    if (page.offset === 0) sayTook(page);
    sayPictures();
    if (grid.hits.length === 0) {
      noteNothing({
        what: "picture",
        allowed: page.allowed,
        onNearest: least > 0 && page.allowed > 0 ? () => go({ all: true }) : null,
        onUnfiltered: state.where ? () => ask({ where: "" }) : null,
      });
    }
  },
});

const captions = new Captions(byId("captions"), {
  hrefWords: (text) => href({ q: asWords(text).slice(0, 2000), like: [], unlike: [], all: false, view: "pictures", pic: null }),
  hrefPicture: (id) => href({ pic: id }),
  onPick: () => byId("file").click(),
  onError: failed,
  onAll: () => go({ all: true }),
  onResults({ hits, allowed }) {
    if (hits.length === 0) {
      noteNothing({
        what: "text", allowed, onNearest: least > 0 && allowed > 0 ? () => go({ all: true }) : null, onUnfiltered: null,
      });
    }
    const linked = hits.filter((hit) => hit.linked).length;
    said.textContent = hits.length === 0 ? "No texts"
      : linked ? `${count(linked, "text")} of its own, then others that fit` : "Texts of your library, the nearest first";
  },
});

const partsShown = new Parts({
  preview,
  onChange(change) {
    ask(change);
    words.focus();
  },
});

const filters = new Filters({
  total: () => info()?.images ?? null,
  onWhere: (where) => ask({ where }),
  onAway: failed,
});

const viewer = new Viewer({
  hrefWords: captions.hrefWords,
  onClose: () => (history.state?.inside ? history.back() : go({ pic: null }, { replace: true })),
  onLike: ({ id }) => ask({ q: "", like: [id], unlike: [], view: "pictures" }),
  onSign: (picture, isMinus) => addPictures([picture.id], isMinus),
  onFolder: (folder) => ask({ q: "", like: [], unlike: [], where: inFolder(folder), view: "pictures" }),
  onPick: (picture) => selection.toggle(picture),
  isPicked: (picture) => selection.has(picture.id),
  onMissing: () => holdings.doubt(),
  onAway: failed,
  onTurn(step) {
    const at = grid.indexOf(state.pic);
    const next = grid.hits[at + step];
    if (next && at >= 0) go({ pic: next.id }, { replace: true });
  },
});

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

const holdings = new Holdings({
  tell,
  onError(error) {
    if (holdings.info === null || error.status === 401) failed(error);
  },
  onBack() {
    filters.forget();
    if (state.view === "captions" || grid.hits.length === 0) render({ fresh: true });
    else grid.retry();
    showPicture(state.pic);
    viewer.retry();
  },
  onChange(before, now) {
    const isOther = before.library !== now.library;
    const isSame = before.images === now.images && before.texts === now.texts && before.model === now.model;
    if (isSame && !isOther) return;
    wall = null;
    lists.clear();
    isOutdated = true;
    filters.forget();
    if (isOther) {
      // Its ids are of other pictures.
      selection.clear();
      if (state.pic !== null) go({ pic: null }, { replace: true });
    }
    const isCalm = scrollY < 40 && state.pic === null && selection.size === 0;
    if (before.images === 0 || now.images === 0 || before.model !== now.model || isOther || isCalm) {
      render({ fresh: true });
    } else if (state.view === "pictures") {
      const act = () => { scrollTo(0, 0); render({ fresh: true }); };
      byId("aside").replaceChildren(
        el("button", { type: "button", className: "more", onclick: act }, "The library has changed: look again"));
    }
  },
});

// ---- hands ---------------------------------------------------------------------------------

function typed() {
  clearTimeout(typingTimer);
  if (words.value.trim() === state.q.trim()) return;
  // One entry of the history for one go at the words, not one for each letter.
  const replace = isTyping;
  isTyping = true;
  ask({ q: words.value }, { replace });
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
    // Of itself the browser would empty the box, and what was found would stay.
    event.preventDefault();
    words.blur();
  } else if (event.key === "Backspace" && words.value === "") {
    const last = state.unlike.length ? "unlike" : "like";
    if (state[last].length) ask({ [last]: state[last].slice(0, -1) });
  }
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  typed();
  isTyping = false;
  render();
});
byId("file").addEventListener("change", (event) => {
  useFiles([...event.target.files], false);
  event.target.value = "";
});

const isNowhere = (target) => target === document.body || target === byId("results");

document.addEventListener("keydown", (event) => {
  const isWriting = event.target.matches?.("input, textarea");
  if (viewer.isOpen || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !isWriting) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key.startsWith("Arrow") && isNowhere(event.target) && state.view === "pictures") {
    if (grid.focus(grid.current)) event.preventDefault();
  } else if (event.key === "Escape" && isNowhere(event.target) && selection.size) {
    selection.clear();
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
  onFiles: useFiles,
  onId: (id, isMinus) => givePictures([id], isMinus),
  invitation: () => (state.view === "captions" ? ["Find texts for this picture"]
    : ["More like this picture", "Less like this picture"]),
});

addEventListener("popstate", (event) => {
  clearTimeout(typingTimer);
  isTyping = false;
  const old = keyOf(state) + state.view;
  state = read();
  render({ scroll: old === keyOf(state) + state.view ? null : (event.state?.scroll ?? 0) });
});
history.scrollRestoration = "manual";

await holdings.refresh();
render();
if (!asks(state) && !state.where && matchMedia("(pointer: fine)").matches) words.focus();
holdings.watch();
