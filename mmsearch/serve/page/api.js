// The service, as the page asks it.

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
    response = await fetch(path, { credentials: "omit", ...options });
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
  throw new Refused(problem, response.status);
}

const query = (values) => new URLSearchParams(values).toString();

export const status = () => ask("/v1/status");
export const healthy = () => ask("/healthz").then(() => true, () => false);
export const image = (id, signal) => ask(`/v1/images/${id}`, { signal });

function upload(path, file, fields, signal) {
  const body = new FormData();
  for (const [key, value] of Object.entries(fields)) body.append(key, value);
  body.append("file", file);
  return ask(path, { method: "POST", body, signal });
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Pictures for words, a picture (`{id}` or `{file}`), or both. */
export function pictures({ q, like }, { k, offset }, signal) {
  if (like?.file) return upload("/v1/search/image", like.file, { q, k, offset }, signal);
  if (like && q) return post("/v1/search", { q, image_id: like.id, k, offset }, signal);
  if (like) return ask(`/v1/images/${like.id}/similar?${query({ k, offset })}`, { signal });
  return ask(`/v1/search?${query({ q, k, offset })}`, { signal });
}

/** Texts for words, a picture, or both. */
export function texts({ q, like }, k, signal) {
  if (like?.file && q) {
    return upload("/v1/search/image", like.file, { q, k, modality: "text" }, signal);
  }
  if (like?.file) return upload("/v1/captions", like.file, { k }, signal);
  if (like && q) return post("/v1/search", { q, image_id: like.id, k, modality: "text" }, signal);
  if (like) return ask(`/v1/images/${like.id}/captions?${query({ k })}`, { signal });
  return ask(`/v1/texts/search?${query({ q, k })}`, { signal });
}

export const captionsOf = (id, k, signal) =>
  ask(`/v1/images/${id}/captions?${query({ k })}`, { signal });

/** The address of a picture's thumbnail; `urls` of an answer makes it cacheable for ever. */
export function thumbnail(picture, pixels = 512) {
  const base = picture.urls?.thumbnail ?? `/v1/images/${picture.id}/thumbnail`;
  return `${base}${base.includes("?") ? "&" : "?"}size=${pixels}`;
}
