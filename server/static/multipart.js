// A request as a form with files.

/** What a request is called in OpenAI's form, where that has another name. */
export function formFields({ format, ...others }) {
  return { ...others, ...(format && { output_format: format }) };
}

/**
 * A `multipart/form-data` body (RFC 7578). The browser's own writes every end of a line as CR LF, which would make
 * another prompt of one that has several.
 *
 * @param {object} fields strings, numbers and booleans
 * @param {Object<string, File>} files
 * @returns {{headers: object, body: Blob}}
 */
export function multipart(fields, files) {
  const boundary = `star-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
  const head = `--${boundary}\r\nContent-Disposition: form-data; name=`;
  const texts = Object.entries(fields).map(([name, value]) => `${head}"${name}"\r\n\r\n${value}\r\n`);
  const parts = Object.entries(files).flatMap(([name, file]) => [
    `${head}"${name}"; filename="${file.name}"\r\nContent-Type: ${file.type || "application/octet-stream"}\r\n\r\n`,
    file,
    "\r\n",
  ]);
  return {
    headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
    body: new Blob([...texts, ...parts, `--${boundary}--\r\n`]),
  };
}
