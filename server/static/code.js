// A request as commands that can be pasted elsewhere. A key is named, never shown.

import { formFields } from "./multipart.js";

const SUFFIXES = { png: "png", webp: "webp", jpeg: "jpg" };

/** The end of the name of a file in this format. */
export function suffix(format = "png") {
  return SUFFIXES[format] ?? format;
}

/**
 * A command for a POSIX shell.
 *
 * @param {string} url of POST /generate
 * @param {object} body of the request
 * @param {boolean} withKey whether the server wants an API key
 */
export function curlCommand(url, body, withKey) {
  const one = (body.n ?? 1) === 1;
  const name = body.seed === undefined ? "star" : `star-${body.seed}`;
  return [
    `curl --fail-with-body --json ${quote(JSON.stringify(body))}`,
    ...(withKey ? [`-H "Authorization: Bearer $API_KEY"`] : []),
    ...(one ? [`-H 'Accept: image/${body.format ?? "png"}'`] : []),
    `-o ${quote(`${name}.${one ? suffix(body.format) : "json"}`)} ${quote(url)}`,
  ].join(" \\\n  ");
}

/** A script for Python's standard library; the arguments are those of curlCommand. */
export function pythonScript(url, body, withKey) {
  const key = withKey ? `, "Authorization": "Bearer " + os.environ["API_KEY"]` : "";
  return `\
import base64
import json
${withKey ? "import os\n" : ""}import pathlib
import urllib.request

body = ${literal(body)}
request = urllib.request.Request(
    ${JSON.stringify(url)},
    json.dumps(body).encode(),
    {"Content-Type": "application/json"${key}},
)
${saveAnswer(body.format)}`;
}

/**
 * A command for an edit, in the folder with its files.
 *
 * @param {string} url of POST /v1/images/edits
 * @param {object} body of the request
 * @param {Object<string, string>} names of its files, by field
 * @param {boolean} withKey whether the server wants an API key
 */
export function curlEdit(url, body, names, withKey) {
  const files = Object.entries(names).map(([field, name]) => `-F ${field}=@${name}`);
  const texts = Object.entries(formFields(body)).map(([field, value]) => `--form-string ${quote(`${field}=${value}`)}`);
  const name = body.seed === undefined ? "star" : `star-${body.seed}`;
  return [
    `curl --fail-with-body ${files.join(" ")}`,
    ...texts,
    ...(withKey ? [`-H "Authorization: Bearer $API_KEY"`] : []),
    `-o ${quote(`${name}.json`)} ${quote(url)}`,
  ].join(" \\\n  ");
}

/** A script for an edit; the arguments are those of curlEdit. */
export function pythonEdit(url, body, names, withKey) {
  const key = withKey ? `, "Authorization": "Bearer " + os.environ["API_KEY"]` : "";
  const texts = Object.entries(formFields(body)).map(([field, value]) => [field, String(value)]);
  return `\
import base64
import json
${withKey ? "import os\n" : ""}import pathlib
import urllib.request
import uuid

fields = ${literal(Object.fromEntries(texts))}
files = ${literal(names)}
boundary = uuid.uuid4().hex
body = b""
for name, value in fields.items():
    body += f'--{boundary}\\r\\nContent-Disposition: form-data; name="{name}"\\r\\n\\r\\n{value}\\r\\n'.encode()
for name, file in files.items():
    body += f'--{boundary}\\r\\nContent-Disposition: form-data; name="{name}"; filename="{file}"\\r\\n\\r\\n'.encode()
    body += pathlib.Path(file).read_bytes() + b"\\r\\n"
body += f"--{boundary}--\\r\\n".encode()
request = urllib.request.Request(
    ${JSON.stringify(url)},
    body,
    {"Content-Type": f"multipart/form-data; boundary={boundary}"${key}},
)
${saveAnswer(body.format)}`;
}

/** What a script does with the pictures. */
function saveAnswer(format) {
  return `\
with urllib.request.urlopen(request) as answer:
    for image in json.load(answer)["data"]:
        path = pathlib.Path(f"star-{image['seed']}.${suffix(format)}")
        path.write_bytes(base64.b64decode(image["b64_json"]))
        print(path)
`;
}

/** One word of a POSIX shell, plain where it can be. */
function quote(text) {
  return /^[\w./:=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A Python dictionary of strings and numbers: JSON's escapes are Python's too. */
function literal(body) {
  return `{${Object.entries(body).map(([name, value]) => `\n    "${name}": ${JSON.stringify(value)},`).join("")}\n}`;
}
