// What the service holds, how fresh that is, and whether it is there at all.

import * as api from "./api.js";
import { byId, count, number, wait } from "./dom.js";

const EVERY_MS = 30_000;
const WARMING_EVERY_MS = 1_500;
const BUSY_EVERY_MS = 2_000;
/** So long is waited for others that fail as well. */
const DOUBT_MS = 500;
const RETRY_MS = [1_000, 2_000, 3_000, 5_000];
const AGO = [["year", 31_557_600], ["month", 2_629_800], ["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** "3 minutes ago"; times of the service carry their zone, or are UTC. */
function ago(text) {
  const at = new Date(/Z|[+-]\d\d:\d\d$/.test(text) ? text : `${text}Z`);
  const seconds = (Date.now() - at) / 1000;
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const [unit, size] = AGO.find(([, size]) => seconds >= size) ?? [];
  return unit ? words.format(-Math.floor(seconds / size), unit) : "just now";
}

export class Holdings {
  /**
   * tell(text, {label, act}) shows the banner; onBack() once the service gives again what it did not;
   * onChange(before, now) when it holds something else; onError(error) when not even its status comes.
   */
  constructor({ tell, onBack, onChange, onError }) {
    Object.assign(this, { tell, onBack, onChange, onError });
    this.info = null;
    this.isLost = false;
    /** Something was not given: once it answers again, that has to be asked for once more. */
    this.isBehind = false;
    this.hadProblem = false;
    this.mayNotLook = false;
    this.doubting = null;
    this.read = null;
    this.events = null;
    this.isBusy = false;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.unfollow();
      else if (this.info && !this.isLost) this.refresh();
    });
  }

  /** The service does not answer: say so, and wait for it. */
  async lost() {
    if (this.isLost) return;
    this.isLost = true;
    this.isBehind = true;
    this.unfollow();
    let skip = () => {};
    const act = () => skip();
    for (let tries = 0; ; tries += 1) {
      this.tell("mmsearch does not answer. Was it stopped? This page goes on by itself once it is back.", { act });
      const pause = wait(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
      await Promise.race([pause, new Promise((resolve) => { skip = resolve; })]);
      if (await api.healthy()) break;
    }
    this.isLost = false;
    this.tell(null);
    await this.refresh();
  }

  /** Its key is not good any more. */
  refused() {
    this.isBehind = true;
    // The sign-in page comes in place of this one, and leads back here.
    this.tell("This service asks for a key.", { label: "Sign in", act: () => location.reload() });
  }

  /**
   * A picture did not come: is it the service's doing? Its error, or null where it is there and one
   * may ask. Of many that fail together the first asks for all.
   */
  doubt() {
    this.doubting ??= wait(DOUBT_MS).then(() => {
      this.doubting = null;
      return this.refresh();
    });
    return this.doubting;
  }

  /** Look what there is; the error if that is not told, or null. */
  async refresh() {
    const before = this.info;
    try {
      this.info = await api.status();
    } catch (error) {
      this.isBehind = true;
      if (error instanceof api.Gone) this.lost();
      else this.onError(error);
      return error;
    }
    await this.look();
    if (this.isBehind && !this.isLost) this.tell(null);
    this.show();
    if (before) this.onChange(before, this.info);
    if (this.isBehind && !this.isLost) {
      this.isBehind = false;
      this.onBack();
    }
    return null;
  }

  /** How fresh it is, and whether something is being read. Not everybody may know: then not. */
  async look() {
    if (this.mayNotLook) return;
    try {
      // One after the other: browsers log what is refused.
      const sources = await api.sources();
      const indexing = await api.indexing();
      const times = sources.map(({ indexed_at: at }) => at).filter(Boolean);
      this.read = times.sort().at(-1) ?? null;
      this.progress(indexing);
    } catch (error) {
      if (error instanceof api.Gone) this.lost();
      this.mayNotLook = error.status === 403;
    }
  }

  progress({ running, queued, writer }) {
    const wasBusy = this.isBusy;
    this.isBusy = Boolean(running) || writer !== null;
    byId("live").hidden = !this.isBusy;
    if (running) {
      const { source, step, done, total } = running;
      const more = queued.length ? `, then ${count(queued.length, "other source")}` : "";
      const far = total ? `: ${number(done)} of ${number(total)} ${step}` : done ? `: ${count(done, "file")}` : "";
      byId("live-text").textContent = `Reading ${source}${far}${more}`;
    } else if (this.isBusy) {
      byId("live-text").textContent = "New pictures are being read on this machine";
    }
    const bar = byId("live-bar");
    if (running?.total) bar.value = running.done / running.total;
    else bar.removeAttribute("value");
    if (running) this.follow();
    else this.unfollow();
    return wasBusy && !this.isBusy;
  }

  /** A stream, only while something is being read: a browser opens few connections to one place. */
  follow() {
    if (this.events || document.hidden) return;
    this.events = new EventSource(api.INDEX_EVENTS);
    this.events.addEventListener("index", (event) => {
      if (this.progress(JSON.parse(event.data))) this.refresh();
    });
    this.events.addEventListener("error", () => this.unfollow());
  }

  unfollow() {
    this.events?.close();
    this.events = null;
  }

  show() {
    const { info } = this;
    const model = info.model ? `${info.model}${info.ready || info.problem ? "" : " (loading)"}` : "no model yet";
    const facts = [count(info.images, "picture"), count(info.texts, "text"), model];
    if (this.read) facts.push(`read ${ago(this.read)}`);
    if (info.missing) facts.push(`${number(info.missing)} away`);
    byId("holds").textContent = facts.join(" · ");
    byId("holds").title = info.library;
    if (info.problem) this.tell(info.problem);
    else if (this.hadProblem) this.tell(null);
    this.hadProblem = Boolean(info.problem);
  }

  async watch() {
    for (;;) {
      const { info } = this;
      const isWaiting = info && (info.images === 0 || (!info.ready && !info.problem));
      await wait(isWaiting ? WARMING_EVERY_MS : this.isBusy ? BUSY_EVERY_MS : EVERY_MS);
      if (!document.hidden && !this.isLost) await this.refresh();
    }
  }
}
