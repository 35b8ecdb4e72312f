// What went wrong, as a sentence, and when it makes sense to try again.

import { find, make } from "./dom.js";

export class Trouble {
  #timer = 0;

  constructor() {
    this.root = find("trouble");
    this.text = find("trouble-text");
    this.actions = find("trouble-actions");
  }

  /**
   * @param {import("./api.js").ApiError} error
   * @param {() => void} retry what to do again, if that may help
   * @param {Object<string, () => void>} choices what else can be done: words for a button, and what it does
   */
  show(error, retry, choices = {}) {
    this.hide();
    this.text.textContent = error.message;
    this.root.classList.toggle("calm", Object.keys(choices).length > 0); // a question more than an alarm
    this.root.hidden = false;
    this.actions.append(...Object.entries(choices).map(([words, act]) => choice(words, act)));
    if (error.retryable) this.#offer(retry, error.retryAfter);
    this.root.scrollIntoView({ block: "nearest" });
  }

  hide() {
    clearInterval(this.#timer);
    this.root.hidden = true;
    this.text.textContent = "";
    this.actions.replaceChildren();
  }

  /** The button to try again, which counts the seconds down until it can be pressed. */
  #offer(retry, seconds) {
    const button = make("button", { type: "button" });
    const until = performance.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left <= 0) clearInterval(this.#timer);
      button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      button.setAttribute("aria-disabled", String(left > 0)); // unlike disabled, it keeps the focus
    };
    button.addEventListener("click", () => button.ariaDisabled === "true" || retry());
    this.actions.append(button);
    this.#timer = setInterval(tick, 250);
    tick();
  }
}

function choice(words, act) {
  const button = make("button", { type: "button", textContent: words });
  button.addEventListener("click", act);
  return button;
}
