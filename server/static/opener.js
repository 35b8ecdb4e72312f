// Pictures from elsewhere: chosen, dropped on the page, or pasted.

import { find } from "./dom.js";

/** @param {(file: File) => void} open is given what was brought */
export function takeFiles(open) {
  const input = find("file");
  find("open-picture").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files[0]) open(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData: { types, files } }) => {
    if (files[0] && !types.includes("text/plain")) open(files[0]); // text is the prompt's, whatever comes with it
  });

  const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // text is the prompt's
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
