// Pictures that are dragged onto the window, or pasted into it: the left half is for pictures to be
// like, the right half (or the Alt key) for those not to be like.

import { byId } from "./dom.js";

/** What a tile of the grid carries when it is dragged: its picture's id. */
export const ID_TYPE = "text/x-mmsearch-id";

// What the field for files takes, whose types browsers do not know: HEIC, raw files of cameras.
const isPicture = ({ type, name }) => type.startsWith("image/")
  || byId("file").accept.split(",").some((suffix) => name.toLowerCase().endsWith(suffix));

/**
 * onFiles(files, isMinus) for pictures from outside, onId(id, isMinus) for one of the grid;
 * invitation(): the words of the two halves, [plus, minus]; without minus there are none.
 */
export function takePictures({ onFiles, onId, invitation }) {
  const drop = byId("drop");
  // As a popover it also stands above an open picture.
  const invite = (isShown) => drop.togglePopover?.(isShown);
  const isOurs = ({ types }) => types.includes("Files") || types.includes(ID_TYPE);
  const isMinus = (event) =>
    Boolean(invitation()[1]) && (event.altKey || event.clientX > innerWidth / 2);

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter(isPicture);
    if (files.length === 0) return;
    event.preventDefault();
    onFiles(files, false);
  });
  addEventListener("dragover", (event) => {
    if (!isOurs(event.dataTransfer)) return;
    event.preventDefault();
    const [plus, minus] = invitation();
    byId("drop-plus").textContent = plus;
    byId("drop-minus").textContent = minus ?? "";
    byId("drop-minus").hidden = !minus;
    const side = isMinus(event) ? "minus" : "plus";
    if (drop.dataset.side !== side) drop.dataset.side = side;
    invite(true);
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) invite(false);
  });
  addEventListener("dragend", () => invite(false));
  addEventListener("drop", (event) => {
    invite(false);
    if (!isOurs(event.dataTransfer)) return;
    event.preventDefault();
    const id = event.dataTransfer.getData(ID_TYPE);
    // What is no picture is sent as well: the service says what is wrong with it.
    if (id) onId(Number(id), isMinus(event));
    else onFiles([...event.dataTransfer.files], isMinus(event));
  });
}
