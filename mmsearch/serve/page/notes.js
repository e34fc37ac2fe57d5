// What stands in place of answers: an empty library, a lost picture, an error.

import { byId, el } from "./dom.js";

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

export function noteNothing() {
  showNote(
    el("h2", {}, "Nothing to show"),
    el("p", {}, "The library holds no picture that could be compared."),
  );
}

export function noteLostPicture() {
  showNote(
    el("h2", {}, "That picture was given in another tab"),
    el("p", {}, "A dropped picture stays in the tab it was dropped in. Drop it here once more."),
  );
}

export function noteError(error, retry) {
  showNote(
    el("h2", {}, "That did not work"),
    el("p", {}, error.message),
    el("button", { type: "button", className: "plain", onclick: retry }, "Try again"),
  );
}

function command(text) {
  const copy = el("button", {
    type: "button",
    className: "quiet",
    onclick: () => navigator.clipboard.writeText(text).then(() => {
      copy.textContent = "copied";
    }),
  }, "copy");
  return el("p", { className: "command" }, el("code", {}, text), copy);
}
