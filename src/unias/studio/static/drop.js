// Folders and files that were dropped or picked, with their paths; and their way to the server in portions.

import { postForm } from "./api.js";

const PICTURES = /\.(png|jpe?g|bmp|tiff?|webp|gif|hei[cf]|avif|jp2|raw|dng|cr2|nef|arw)$/i; // what is a picture by its name; the server says which it takes
const GOOD = /^(good|ok|normal)$/i;
const PORTION = 24; // photos a request
const PORTION_BYTES = 48e6;

function all(reader) {
  return new Promise((resolve, reject) => {
    const found = [];
    // A browser gives a hundred entries at a time, and an empty list at the end.
    const more = () => reader.readEntries((entries) => {
      if (!entries.length) return resolve(found);
      found.push(...entries);
      return more();
    }, reject);
    more();
  });
}

async function walk(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: path + entry.name });
  } else if (entry.isDirectory) {
    for (const child of await all(entry.createReader())) await walk(child, `${path}${entry.name}/`, found);
  }
}

/** Every file of a drop, folders opened: [{file, path: "screw/good/1.png"}]. */
export async function dropped(transfer) {
  // Entries must be asked for before the first await: the browser empties the list after the event.
  const entries = [...transfer.items].map((item) => (item.webkitGetAsEntry ? item.webkitGetAsEntry() : null)).filter(Boolean);
  const found = [];
  if (!entries.length) for (const file of transfer.files) found.push({ file, path: file.name });
  for (const entry of entries) await walk(entry, "", found);
  return found;
}

export function picked(input) {
  return [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

/** Only pictures, in order of their paths; hidden files are left out. */
export function photosOf(found) {
  const usable = found.filter(({ path }) => PICTURES.test(path) && !path.split("/").some((part) => part.startsWith(".")));
  return usable.sort((a, b) => a.path.localeCompare(b.path, "en", { numeric: true }));
}

/** Folders in which good photos lie in a folder of their own: what else is in them are kinds of defects. */
function sortedIn(photos) {
  const found = new Set();
  for (const { path } of photos) {
    const above = path.split("/").slice(0, -1);
    if (above.length && GOOD.test(above[above.length - 1])) found.add(above.slice(0, -1).join("/"));
  }
  return [...found];
}

/** Send photos; `progress(done, all)` is called after each portion. Returns {taken, refused, ids, failed}: where a portion fails,
    what was said of those before it, and why. */
export async function send(photos, fields, progress, stopped = () => false) {
  const sum = { taken: 0, refused: [], ids: [], failed: "" };
  const sorted = sortedIn(photos).slice(0, 900);
  for (let at = 0; at < photos.length && !stopped();) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    for (const folder of sorted) form.append("sorted", folder);
    for (let count = 0, size = 0; at < photos.length && count < PORTION && (!count || size + photos[at].file.size < PORTION_BYTES); at++, count++) {
      size += photos[at].file.size;
      form.append("photo", photos[at].file, photos[at].path);
    }
    let answer;
    try {
      answer = await postForm("/photos", form);
    } catch (error) {
      if (error.status === 413) {
        // Too large a portion: those in it are named, the others go on.
        sum.refused.push(...form.getAll("photo").map((file) => ({ name: file.name, why: error.message })));
        progress(at, photos.length);
        continue;
      }
      sum.failed = error.message;
      return sum;
    }
    sum.taken += answer.taken;
    sum.refused.push(...answer.refused);
    sum.ids.push(...answer.ids);
    progress(at, photos.length);
  }
  return sum;
}
