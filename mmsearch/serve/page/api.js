// The service, as the page asks it: by addresses relative to the page, which a proxy may show below
// a path of its own.

/** The service answered, and what it said is a problem (RFC 9457). */
export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || problem.title || `The service answered ${status}.`);
    this.status = status;
    this.type = problem.type ?? "";
  }
}

/** The service did not answer at all. */
export class Gone extends Error {}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("mmsearch does not answer.");
  }
  if (response.ok) return response.json();
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Not ours, perhaps a proxy's: the status has to do.
  }
  if (problem.type?.endsWith(":stopping")) throw new Gone("mmsearch is being stopped.");
  throw new Refused(problem, response.status);
}

const query = (values) => new URLSearchParams(values).toString();

export const status = () => ask("v1/status");
export const sources = () => ask("v1/sources");
export const indexing = () => ask("v1/index");
export const healthy = () => ask("healthz").then(() => true, () => false);
export const image = (id, signal) => ask(`v1/images/${id}`, { signal });
export const facets = (where, signal) => ask(`v1/facets?${query({ where })}`, { signal });

/**
 * Ask a question. parts: [{text | image_id | file, weight}]; options: the other fields of the
 * service's SearchRequest (where, min_relevance, k, offset, modality, ...).
 */
export function search(parts, options, signal) {
  const files = [];
  const plain = parts.map(({ file, ...part }) => {
    if (!file) return part;
    files.push(file);
    return { ...part, upload: files.length - 1 };
  });
  const question = JSON.stringify({ parts: plain, ...options });
  if (files.length === 0) {
    const headers = { "Content-Type": "application/json" };
    return ask("v1/search", { method: "POST", headers, body: question, signal });
  }
  const body = new FormData();
  body.append("question", question);
  for (const file of files) body.append("file", file);
  return ask("v1/search/image", { method: "POST", body, signal });
}

/** The texts for a picture of the library: its own first. */
export const captionsOf = (id, k, signal) =>
  ask(`v1/images/${id}/captions?${query({ k })}`, { signal });

/** The address that an answer names, which begins at the service's "/". */
const here = (url) => url.replace(/^\//, "");

/** The address of a picture's file. */
export const file = (picture) => here(picture.urls.file);

/** Where what is being read is told as it goes on. */
export const INDEX_EVENTS = "v1/index/events";

/** The address of a picture's thumbnail; `urls` of an answer makes it cacheable for ever. */
export function thumbnail(picture, pixels = 512) {
  const base = picture.urls ? here(picture.urls.thumbnail) : `v1/images/${picture.id}/thumbnail`;
  return `${base}${base.includes("?") ? "&" : "?"}size=${pixels}`;
}

/** The address under which these pictures come as one file. */
export const zip = (ids) => `v1/images.zip?${ids.map((id) => `ids=${id}`).join("&")}`;
