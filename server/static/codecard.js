// The request as commands, to be copied; and the files that they name, to be saved.

import { apiKey } from "./api.js";
import { curlCommand, curlEdit, pythonEdit, pythonScript } from "./code.js";
import { find, make } from "./dom.js";
import { toQuery } from "./form.js";

export class CodeCard {
  /**
   * @param {() => {body: object, names: object|null}} wanted the request, and for an edit the names of its files
   * @param {() => Promise<import("./editor.js").Edit>} edit with its files
   * @param {(sentence: string) => void} say
   */
  constructor(wanted, edit, say) {
    Object.assign(this, { wanted, edit, say });
    this.text = find("code");
    find("copy-curl").addEventListener("click", (event) => this.#copy(event.currentTarget, this.#curl()));
    find("copy-python").addEventListener("click", (event) => this.#copy(event.currentTarget, this.#python()));
    find("copy-link").addEventListener("click", (event) => {
      this.#copy(event.currentTarget, new URL(toQuery(wanted().body), document.baseURI).href);
    });
    find("save-image").addEventListener("click", () => this.#save("image"));
    find("save-mask").addEventListener("click", () => this.#save("mask"));
  }

  show() {
    const { body, names } = this.wanted();
    find("code-card").hidden = body.prompt === "";
    find("copy-link").hidden = names !== null; // a link cannot hold pictures
    for (const field of ["image", "mask"]) {
      const button = find(`save-${field}`);
      button.hidden = !names?.[field];
      button.textContent = `Save ${names?.[field] ?? ""}`;
    }
    this.text.textContent = this.#curl();
  }

  #curl() {
    return this.#command(curlCommand, curlEdit);
  }

  #python() {
    return this.#command(pythonScript, pythonEdit);
  }

  #command(write, writeEdit) {
    const { body, names } = this.wanted();
    const url = new URL(names ? "v1/images/edits" : "generate", document.baseURI).href;
    const withKey = apiKey.get() !== "";
    return names ? writeEdit(url, body, names, withKey) : write(url, body, withKey);
  }

  async #save(field) {
    const file = (await this.edit()).files[field];
    const href = URL.createObjectURL(file);
    make("a", { href, download: file.name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000); // when the browser has long read it
  }

  async #copy(button, text) {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text); // is not there on a page that came over plain HTTP from afar
      button.textContent = "Copied";
      this.say(`${label}: done.`);
    } catch {
      this.text.textContent = text;
      getSelection().selectAllChildren(this.text);
      this.text.focus();
      this.say("This browser does not allow copying; the text is selected instead.");
    }
    setTimeout(() => (button.textContent = label), 1500);
  }
}
