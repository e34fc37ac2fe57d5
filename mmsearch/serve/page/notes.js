// What stands in place of answers: an empty library, a lost picture, an error.

import { byId, copy, count, el } from "./dom.js";

/** Put this in place of answers; nothing takes the note away. */
export function showNote(...content) {
  const note = byId("note");
  note.replaceChildren(...content);
  note.hidden = content.length === 0;
}

export function noteEmptyLibrary() {
  showNote(
    el("h2", {}, "An empty library"),
    el("p", {}, "Point mmsearch at a folder of pictures, and they show up here by themselves:"),
    command("mmsearch index ~/Photos"),
  );
}

export function noteNoTexts() {
  showNote(
    el("h2", {}, "No texts in this library yet"),
    el("p", {}, "Captions, notes and descriptions are found beside your pictures, or where you say:"),
    command("mmsearch index ~/Photos --captions captions.jsonl"),
  );
}

/** No picture or text answers. onNearest: show what is too weak all the same; onUnfiltered: without the filter. */
export function noteNothing({ what, allowed, onNearest, onUnfiltered }) {
  if (allowed === 0 && onUnfiltered) {
    showNote(
      el("h2", {}, "No picture passes these filters"),
      el("button", { type: "button", className: "plain", onclick: onUnfiltered }, "Take the filters off"),
    );
    return;
  }
  if (!onNearest) {
    showNote(el("h2", {}, "Nothing to show"), el("p", {}, `There is no ${what} that could be compared.`));
    return;
  }
  const were = allowed === 1 ? "was" : "were";
  showNote(
    el("h2", {}, onUnfiltered ? "Nothing here matches" : "Nothing in this library matches"),
    el("p", {}, `${count(allowed, what)} ${onUnfiltered ? "passed the filters and " : ""}${were} compared.`),
    el("div", { className: "choose" },
      el("button", { type: "button", className: "plain", onclick: onNearest }, "Show what comes nearest"),
      onUnfiltered ? el("button", { type: "button", className: "plain", onclick: onUnfiltered }, "Take the filters off") : null,
    ),
  );
}

/** What was typed is no question yet. */
export function noteUnclear(message) {
  showNote(
    el("h2", {}, "Go on"),
    el("p", {}, message),
    el("p", {}, "Parts are written like: ", el("code", {}, "beach + 0.5:sunset - people")),
  );
}

/** So many pictures of one's own are lost. onWithout: ask without them. */
export function noteLostPictures(n, { onWithout }) {
  const [heading, once, out] = n === 1
    ? ["That picture is not here any more", "Drop it here once more.", "Leave it out"]
    : ["Those pictures are not here any more", "Drop them here once more.", "Leave them out"];
  showNote(
    el("h2", {}, heading),
    el("p", {}, `A dropped picture is kept only until its tab is reloaded or closed. ${once}`),
    el("button", { type: "button", className: "plain", onclick: onWithout }, out),
  );
}

/** Asked for again, it would be refused again: something else has to be asked. */
export const isFinal = ({ status }) => status >= 400 && status < 500 && status !== 408 && status !== 429;

/**
 * onRetry: ask once more; onWithout: without the pictures that may be at fault, of which `without`
 * speaks; onUnfiltered. `told`: what is wrong, where more is known than the error says.
 */
export function noteError(error, { onRetry, onWithout, without, onUnfiltered, told = [error.message] }) {
  const ways = [
    [onWithout, `Leave ${without} out`],
    [onUnfiltered, "Take the filters off"],
  ].filter(([act]) => act);
  if (ways.length === 0 || !isFinal(error)) ways.unshift([onRetry, "Try again"]);
  showNote(
    el("h2", {}, "That did not work"),
    ...told.map((text) => el("p", {}, text)),
    el("div", { className: "choose" }, ...ways.map(([onclick, label]) =>
      el("button", { type: "button", className: "plain", onclick }, label))),
  );
}

function command(text) {
  const button = el("button", { type: "button", className: "quiet", onclick: () => copy(text, button) }, "copy");
  return el("p", { className: "command" }, el("code", {}, text), button);
}
