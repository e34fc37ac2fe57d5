// Filters as text (deploy/filters.md), taken apart as far as the page can show their choices:
// conditions side by side, several of one kind in parentheses: "(taken:2019 or taken:2020) has:gps".
// Whatever else is written stays as it is, one piece of text.

/** Conditions of which several may be chosen; one of them is enough. */
const KINDS = new Set(["taken", "camera", "format", "orientation", "keyword", "tag", "source"]);
const CONDITION = /^([a-z]+):./i;

/** The pieces of a filter that blanks separate, outside of quotation marks and parentheses. */
function pieces(text) {
  const found = [];
  let start = -1;
  let depth = 0;
  let isQuoted = false;
  for (let at = 0; at <= text.length; at += 1) {
    const char = text[at] ?? " ";
    if (isQuoted && at < text.length) {
      if (char === "\\") at += 1;
      else if (char === '"') isQuoted = false;
    } else if (char === '"') {
      isQuoted = true;
    } else if (char === "(") {
      depth += 1;
    } else if (char === ")") {
      depth -= 1;
    } else if (/\s/.test(char) && (depth <= 0 || at === text.length)) {
      if (start >= 0) found.push(text.slice(start, at));
      start = -1;
      continue;
    }
    if (start < 0 && at < text.length) start = at;
  }
  return found;
}

const isWord = (piece, word) => piece.toLowerCase() === word;

/** [{kind, conditions, text}]: all of them must be true; kind is null for what stays as it is. */
export function read(where) {
  const parts = pieces(where);
  if (parts.some((part) => isWord(part, "or"))) return [whole(where.trim())];
  const entries = [];
  for (let at = 0; at < parts.length; at += 1) {
    if (isWord(parts[at], "and")) continue;
    let text = parts[at];
    while (isWord(parts[at], "not") && at + 1 < parts.length) {
      at += 1;
      text += ` ${parts[at]}`;
    }
    const entry = choices(text);
    const isDouble = entries.some(({ kind }) => kind !== null && kind === entry.kind);
    entries.push(isDouble ? whole(text) : entry);
  }
  return entries;
}

const whole = (text) => ({ kind: null, conditions: [text], text });

function choices(text) {
  const inner = text.startsWith("(") && text.endsWith(")") ? text.slice(1, -1) : text;
  const parts = pieces(inner);
  const conditions = parts.filter((_, at) => at % 2 === 0);
  const kinds = new Set(conditions.map((one) => CONDITION.exec(one)?.[1].toLowerCase() ?? null));
  const isList = parts.length % 2 === 1 && parts.every((part, at) => at % 2 === 0 || isWord(part, "or"));
  const [kind] = kinds;
  if (!isList || kinds.size !== 1 || !KINDS.has(kind)) return whole(text);
  return { kind, conditions, text };
}

/** The filter that these entries make. */
export function write(entries) {
  const full = entries.filter(({ conditions }) => conditions.length > 0);
  return full
    .map(({ kind, conditions, text }) => {
      if (kind !== null) return conditions.length > 1 ? `(${conditions.join(" or ")})` : conditions[0];
      const isEither = pieces(text).some((piece) => isWord(piece, "or"));
      return isEither && full.length > 1 ? `(${text})` : text;
    })
    .join(" and ");
}

const same = (one, other) => one.toLowerCase() === other.toLowerCase();

/** Whether the filter has chosen this condition. */
export const has = (where, condition) =>
  read(where).some(({ conditions }) => conditions.some((one) => same(one, condition)));

/** The filter with a condition chosen, or no longer, if it was. */
export function toggle(where, condition) {
  const kind = choices(condition).kind;
  const entries = read(where);
  if (has(where, condition)) {
    return write(entries.map((entry) => ({
      ...entry,
      conditions: entry.conditions.filter((one) => !same(one, condition)),
    })));
  }
  const group = entries.find((entry) => entry.kind !== null && entry.kind === kind);
  if (!group) return write([...entries, choices(condition)]);
  // A month of a year that was chosen stands for it, and a year for its months.
  const others = group.conditions.filter(
    (one) => kind !== "taken" || !(condition.startsWith(`${one}-`) || one.startsWith(`${condition}-`)),
  );
  return write(entries.map((entry) => (entry === group ? { ...group, conditions: [...others, condition] } : entry)));
}

/** The filter without one of its kinds, to count what else there is of it. */
export const without = (where, kind) => write(read(where).filter((entry) => entry.kind !== kind));

/** A condition's value as it was meant. */
export function valueOf(condition) {
  const value = condition.slice(condition.indexOf(":") + 1);
  const bare = value.startsWith('"') ? value.slice(1, -1).replace(/\\(["\\])/g, "$1") : value;
  return bare.replace(/\[([*?[])\]/g, "$1");
}

/** The condition that a file lies in this folder, however deep. */
export function inFolder(folder) {
  const pattern = folder.replace(/[*?[]/g, "[$&]");
  return `folder:"${pattern.replace(/["\\]/g, "\\$&")}"`;
}
