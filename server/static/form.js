// The form: what is asked for, as a request body and as the query of a link.
// Ranges are not checked here: the server refuses what is wrong in a sentence that names the field.

const NUMBERS = ["n", "seed", "guidance_scale", "top_k", "top_p", "smooth_scales", "unguided_scales", "draft"];
const FIELDS = ["prompt", "negative_prompt", ...NUMBERS, "format", "size", "model"];
const OFFERED = ["size", "model"]; // what the server offers

export class Form {
  /** @param {HTMLFormElement} element */
  constructor(element) {
    this.element = element;
  }

  field(name) {
    return this.element.elements[name];
  }

  /** The body of a request: what differs from the defaults. */
  read() {
    const body = {};
    for (const name of FIELDS) {
      const { value, dataset } = this.field(name);
      const text = value.trim();
      if (name !== "prompt" && (text === "" || text === dataset.default)) continue;
      const number = Number(text);
      body[name] = NUMBERS.includes(name) && Number.isFinite(number) ? number : text;
    }
    return body;
  }

  /** Shows a request body; what it leaves out gets its default. */
  fill(body) {
    for (const name of FIELDS) {
      const field = this.field(name);
      this.#set(field, body[name] ?? field.dataset.default ?? "");
    }
    this.#openFor(FIELDS.filter((name) => name in body));
  }

  /** Offers the sizes of a model's pictures, if it makes several; the first is the default. */
  offerSizes(sizes) {
    const field = this.field("size");
    const chosen = field.value;
    field.replaceChildren(...sizes.map((size, i) => new Option(size.replace("x", " × "), i ? size : "")));
    this.#set(field, chosen === sizes[0] ? "" : chosen);
    field.parentElement.hidden = sizes.length < 2 && !field.value;
  }

  /** Offers the models of a server that has several. */
  offerModels(names) {
    const field = this.field("model");
    const chosen = field.value;
    const alone = names.length < 2 && (!chosen || chosen === names[0]);
    field.replaceChildren(...(alone ? [] : names.map((name) => new Option(name, name))));
    this.#set(field, alone ? "" : chosen);
    field.parentElement.hidden = alone;
  }

  #set(field, value) {
    field.value = value;
    // What is not offered, or not yet: the server says what there is.
    if (OFFERED.includes(field.name) && value && field.value !== value) field.append(new Option(value, value, true, true));
    if (field.name === "model" && !field.value && field.options.length) field.selectedIndex = 0;
  }

  /** Marks the field that an error is about, and goes there. */
  blame(name) {
    this.forgive();
    const field = name && this.field(name);
    if (!field) return;
    this.#openFor([name]);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-errormessage", "trouble-text");
    field.focus();
  }

  /** Takes the marks off. */
  forgive() {
    for (const field of this.element.querySelectorAll("[aria-invalid]")) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-errormessage");
    }
  }

  /** Opens the folded part if one of these fields is in it. */
  #openFor(names) {
    for (const name of names) {
      for (let fold = this.field(name).closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    }
  }
}

/** The query of a link to this request. */
export function toQuery(body) {
  return `?${new URLSearchParams(body)}`;
}

/** The request that a link's query holds; other parameters are left alone. */
export function fromQuery(query) {
  return Object.fromEntries([...new URLSearchParams(query)].filter(([name]) => FIELDS.includes(name)));
}
