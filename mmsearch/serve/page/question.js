// Questions of several parts, as they are typed: "beach + 0.5:sunset - people". The same rules as
// the terminal's (mmsearch/query.py, which the tests hold this against).

/** What was typed is no question yet. */
export class Unclear extends Error {}

// "0.5:sunset". Not "3:10 to Yuma": after the colon comes no digit.
const WEIGHTED = /^(\d+(?:\.\d+)?|\.\d+):(?=[^\s\d])/;
const SIGNED = /(?:^|\s)[+-]\s/;
// A backslash makes what would be a sign or a weight plain words: "Paris \- Eiffel Tower".
const PLAIN_SIGN = /(^|\s)\\(\\*[+-])(?=\s|$)/g;
const PLAIN_WEIGHT = /^\\(?=\\*(?:\d+(?:\.\d+)?|\.\d+):[^\s\d])/;
// What needs one more backslash, to be read as it stands.
const LIKE_SIGN = /(^|\s)(\\*[+-])(?=\s|$)/g;
const LIKE_WEIGHT = /^(?=\\*(?:\d+(?:\.\d+)?|\.\d+):[^\s\d])/;

function term(typed, sign) {
  const text = typed.trim();
  const found = WEIGHTED.exec(text);
  const words = found ? text.slice(found[0].length) : text.replace(PLAIN_WEIGHT, "");
  if (!words) throw new Unclear(`There are no words after “${sign > 0 ? "+" : "−"}” yet.`);
  return { text: words.replace(PLAIN_SIGN, "$1$2"), weight: sign * (found ? Number(found[1]) : 1) };
}

/** The parts of a line, in which lone signs stand between blanks: [{text, weight}]. */
export function parseQuery(line) {
  if (!SIGNED.test(line)) return [term(line, 1)];
  const parts = [{ sign: 1, words: [] }];
  for (const word of line.trim().split(/\s+/)) {
    if (word === "+" || word === "-") parts.push({ sign: word === "+" ? 1 : -1, words: [] });
    else parts.at(-1).words.push(word);
  }
  if (!parts[0].words.length) parts.shift();
  return parts.map(({ sign, words }) => term(words.join(" "), sign));
}

/**
 * The relevance below which an answer to these parts is not shown unasked: who asks for what is like
 * a picture wants to see what comes nearest (mmsearch.query.least_relevance).
 */
export const leastRelevance = (parts) => (parts.some(({ text, weight }) => text && weight > 0) ? 0.5 : 0);

/** What stands in the box, as a line: a sign at its end waits for words to come. */
export const asLine = (typed) => `${typed.trim()} `;

/** A line that parseQuery reads as these parts. */
export function writeQuery(terms) {
  return terms
    .map(({ text, weight }, at) => {
      const plain = text.replace(LIKE_SIGN, "$1\\$2");
      const heavy = Math.abs(weight) === 1 ? plain.replace(LIKE_WEIGHT, "\\") : `${Math.abs(weight)}:${plain}`;
      if (weight < 0) return `- ${heavy}`;
      return at ? `+ ${heavy}` : heavy;
    })
    .join(" ");
}

/** A line that asks for these words as they stand, also where they look like signs and weights. */
export const asWords = (text) => writeQuery([{ text: text.trim().replace(/\s+/g, " "), weight: 1 }]);
