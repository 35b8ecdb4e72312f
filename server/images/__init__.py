"""Images in and out: uploads and canvases for edits, encoded files, and the store behind addresses."""
