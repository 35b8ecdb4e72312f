// What differs between a phone and a desk, and the keys that work everywhere on the page.

import { find } from "./dom.js";

/** Folds away on a phone what stands open on a desk, until somebody opens it. */
export function foldOnPhones() {
  const phone = matchMedia("(max-width: 40rem)");
  const fold = () => {
    for (const part of document.querySelectorAll("details[data-desk]")) part.open = !phone.matches;
  };
  phone.addEventListener("change", fold);
  fold();
}

/** "/" goes to the prompt from anywhere but a field. */
export function goToPromptBySlash() {
  document.addEventListener("keydown", (event) => {
    const isPlain = event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!isPlain || event.target.closest("input, textarea, select, [role=application], dialog")) return;
    event.preventDefault();
    find("prompt").focus();
  });
}
