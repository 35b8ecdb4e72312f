// One run: what comes of a request, shown as it comes.

import { previews } from "./api.js";

const TYPES = { png: "image/png", webp: "image/webp", jpeg: "image/jpeg" };

export class Run {
  #started = performance.now();
  #firstPreview = null; // seconds until it came
  #done = 0;

  /**
   * @param {number} n pictures that are asked for
   * @param {object} shown
   * @param {import("./stage.js").Stage} shown.stage
   * @param {import("./ladder.js").Ladder} shown.ladder
   * @param {(sentence: string) => void} shown.say
   */
  constructor(n, { stage, ladder, say }) {
    Object.assign(this, { n, stage, ladder, say });
    this.seen = Array(n).fill(0); // previews of each picture
    say("Painting.");
  }

  /**
   * Shows the pictures of a stream.
   *
   * @param {AsyncIterable<object>} events
   * @param {(index: number, blob: Blob, event: object) => void} finish is called with each finished picture
   */
  async follow(events, finish) {
    this.ladder.reach(0);
    for await (const event of events) {
      const index = event.image_index ?? 0;
      const blob = new Blob([decode(event.b64_json)], { type: TYPES[event.output_format] });
      if (event.type.endsWith(".partial_image")) this.#preview(index, blob, event.partial_image_index + 1);
      else this.#finish(() => finish(index, blob, event), index);
      this.ladder.reach(Math.min(...this.seen) / (previews + 1)); // about how far: the server leaves out previews of smears
    }
    const early = this.#firstPreview === null ? "" : `; the first preview came after ${this.#firstPreview.toFixed(2)} s`;
    this.say(`${this.n > 1 ? `${this.n} pictures` : "Painted"} in ${this.#seconds().toFixed(2)} s${early}.`);
  }

  #preview(index, blob, number) {
    this.#firstPreview ??= this.#seconds();
    this.seen[index] = number;
    this.stage.preview(index, blob, number);
    if (this.n === 1) this.say(`Preview ${number} of ${previews}.`);
  }

  #finish(finish, index) {
    this.seen[index] = previews + 1;
    this.#done += 1;
    finish();
    if (this.n > 1) this.say(`${this.#done} of ${this.n} pictures are painted.`);
  }

  #seconds() {
    return (performance.now() - this.#started) / 1000;
  }
}

function decode(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
