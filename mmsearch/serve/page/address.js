// The address bar is the state: what is asked, what may be found, what is open.
//   ?q=words  &like=3,drop-x7k2-1  &unlike=12  &where=filter  &all=1  &view=captions  &pic=id
// "drop-x7k2-1" is a picture given in this tab since it was loaded; all: also what matches too weakly.

const MAX_WORDS = 2000;
const MAX_WHERE = 10_000;
/** Pictures of one question; the service takes ten uploads. */
export const MAX_PICTURES = 20;

const GIVEN = /^drop-(?:[0-9a-z]{1,12}-)?\d{1,6}$/;

const id = (text) => (/^\d{1,18}$/.test(text ?? "") ? Number(text) : null);

function pictures(text) {
  const names = (text ?? "").split(",").map((name) => (GIVEN.test(name) ? name : id(name)));
  return [...new Set(names.filter((name) => name !== null))].slice(0, MAX_PICTURES);
}

/** The state that an address stands for; what makes no sense in it is left out. */
export function read(search = location.search) {
  const from = new URLSearchParams(search);
  const like = pictures(from.get("like"));
  return {
    q: (from.get("q") ?? "").slice(0, MAX_WORDS),
    like,
    unlike: pictures(from.get("unlike")).filter((name) => !like.includes(name)),
    where: (from.get("where") ?? "").slice(0, MAX_WHERE),
    all: from.get("all") === "1",
    view: from.get("view") === "captions" ? "captions" : "pictures",
    pic: id(from.get("pic")),
  };
}

/** The address of a state. */
export function href({ q, like, unlike, where, all, view, pic }) {
  const to = new URLSearchParams();
  if (q) to.set("q", q);
  if (like.length) to.set("like", like.join(","));
  if (unlike.length) to.set("unlike", unlike.join(","));
  if (where) to.set("where", where);
  if (all) to.set("all", "1");
  if (view !== "pictures") to.set("view", view);
  if (pic !== null) to.set("pic", pic);
  // Commas mean nothing to a query, and read better as they are.
  const text = to.toString().replaceAll("%2C", ",");
  // The page lies wherever a proxy shows it.
  return text ? `${location.pathname}?${text}` : location.pathname;
}

/** What decides which answers are shown. */
export const keyOf = ({ q, like, unlike, where, all }) =>
  JSON.stringify([q.trim(), like, unlike, where, all]);

/** Whether anything is asked, other than to look around. */
export const asks = ({ q, like, unlike }) => Boolean(q.trim()) || like.length + unlike.length > 0;
