// The line under the picture: what happens, and for how long it has.

import { find } from "./dom.js";

export class Status {
  #clock = 0; // the timer that counts the seconds of a run
  #loading = ""; // what was last said of the server's loading

  constructor() {
    this.sentence = find("status");
    this.elapsed = find("elapsed");
  }

  /** Says something to everybody, once: what stands there already is not read out again. */
  say(sentence) {
    if (this.sentence.textContent !== sentence) this.sentence.textContent = sentence;
  }

  /** Says what the server does before it paints, and for how many seconds it has; a run counts its own. */
  loading(sentence, seconds) {
    this.say(sentence);
    this.#loading = sentence;
    if (!this.#clock) this.elapsed.textContent = `${seconds} s`;
  }

  /** Takes back what was said of loading; a sentence about something else, said since then, stays. */
  loaded() {
    if (this.#loading && this.sentence.textContent === this.#loading) this.say("");
    this.#loading = "";
    if (!this.#clock) this.elapsed.textContent = "";
  }

  /** A picture may take minutes on a small machine: shows that time goes on, until it is stopped. */
  count() {
    this.stop();
    const started = performance.now();
    this.#clock = setInterval(() => {
      this.elapsed.textContent = `${Math.floor((performance.now() - started) / 1000)} s`;
    }, 1000);
  }

  stop() {
    clearInterval(this.#clock);
    this.#clock = 0;
    this.elapsed.textContent = "";
  }
}
