"use strict";
// What the page can do beyond being read: another theme, sorted tables, everything open on paper. It stands without this.

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function nameTheme() {
  themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
}

// Pictures follow the system; where the page does not, their media query is replaced by a fixed answer.
function paintPictures() {
  const query = "@media (prefers-color-scheme: dark)";
  const wanted = root.dataset.theme ? (isDark() ? "@media all" : "@media not all") : query;
  const head = "data:image/svg+xml;base64,";
  for (const image of document.querySelectorAll(".picture img")) {
    image.dataset.drawn ??= image.src;
    image.src = wanted === query ? image.dataset.drawn : head + btoa(atob(image.dataset.drawn.slice(head.length)).replace(query, wanted));
  }
}

themeButton.hidden = false;
nameTheme();
systemDark.addEventListener("change", nameTheme);
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";  // in memory only: a sandboxed page has no storage
  nameTheme();
  paintPictures();
});

function cellKey(cell) {
  const text = cell.textContent.replaceAll(",", "").replaceAll("\u2212", "-").replace("\u221e", "Infinity");
  return cell.classList.contains("number") ? Number(text) : cell.textContent;
}

function compare(a, b) {
  if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a - b;
}

function sortBy(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...table.tBodies[0].rows].map((row) => ({ row, key: cellKey(row.cells[column]) }));
  const missing = (entry) => Number.isNaN(entry.key);
  keyed.sort((a, b) => missing(a) || missing(b) ? compare(a.key, b.key) : (down ? -1 : 1) * compare(a.key, b.key));
  table.tBodies[0].append(...keyed.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head, column));
    head.append(button);
  });
}

const openedForPaper = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    openedForPaper.push(details);
  }
});
addEventListener("afterprint", () => {
  while (openedForPaper.length) openedForPaper.pop().open = false;
});

root.dataset.ready = "";
