// Pictures that are dropped on the window or pasted into it.

import { byId } from "./dom.js";

/** What a tile of the grid carries when it is dragged: its picture's id. */
export const ID_TYPE = "text/x-mmsearch-id";

/** onFile(file) for a picture from outside, onId(id) for one of the grid, invitation() to drop. */
export function takePictures({ onFile, onId, invitation }) {
  const drop = byId("drop");
  const isOurs = ({ types }) => types.includes("Files") || types.includes(ID_TYPE);

  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    onFile(file);
  });
  addEventListener("dragover", (event) => {
    if (!isOurs(event.dataTransfer)) return;
    event.preventDefault();
    byId("drop-text").textContent = invitation();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.hidden = true;
  });
  addEventListener("dragend", () => {
    drop.hidden = true;
  });
  addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!isOurs(event.dataTransfer)) return;
    event.preventDefault();
    const id = event.dataTransfer.getData(ID_TYPE);
    if (id) onId(Number(id));
    else onFile(event.dataTransfer.files[0]);
  });
}
