// Tables: sorted by a column at the press of its head, and said aloud; rows that the page does not show come out of its CSV file.
{
  const { element } = shared;
  const aloud = element("p", { class: "aloud", role: "status", "aria-live": "polite" });
  document.querySelector("main").append(aloud);

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
    aloud.textContent = `Sorted by ${head.textContent.trim()}, ${head.getAttribute("aria-sort")}: ${keyed.length} rows.`;
  }

  function sortable(table) {
    if (table.tBodies[0].rows.length < 2) return;
    table.dataset.sortable = "";
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.append(element("button", { type: "button", title: "Sort by this column", click: () => sortBy(table, head, column) }, ...head.childNodes));
    });
  }

  // Rows of cells of a CSV file: quotes around a cell, two of them for one inside (RFC 4180).
  function cellsOf(text) {
    const rows = [[]];
    for (const [, cell, end] of text.matchAll(/("(?:[^"]|"")*"|[^,\n]*)(,|\n|$)/g)) {
      rows.at(-1).push(cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
      if (end === "\n") rows.push([]);
      if (end === "") break;
    }
    return rows.filter((row) => row.length > 1 || row[0]);
  }

  // A number as the page writes it: four digits, whole numbers in full.
  function inDigits(text) {
    if (text === "True" || text === "False") return text === "True" ? "yes" : "no";
    if (text === "inf" || text === "-inf") return text === "inf" ? "\u221e" : "\u2212\u221e";
    const value = text === "" ? NaN : Number(text);
    if (Number.isNaN(value)) return "\u2013";
    const [mantissa, exponent] = value.toExponential(3).split("e").map(Number);
    const plain = /^-?\d+$/.test(text) ? value.toLocaleString("en", { useGrouping: Math.abs(value) >= 10000 })
      : exponent >= -4 && exponent < 6 ? value.toLocaleString("en", { maximumFractionDigits: Math.max(0, 3 - exponent) }) : `${mantissa}e${exponent}`;
    return value === 0 ? "0" : plain.replaceAll("-", "\u2212");
  }

  async function showAll(table, note, block) {
    const { deflate, rows, rows_in_all: all } = JSON.parse(block.textContent);
    const text = new TextDecoder().decode(await shared.inflate(deflate));
    const numeric = [...table.tHead.rows[0].cells].map((head) => head.classList.contains("number"));
    const there = table.tBodies[0].rows.length;
    for (const cells of cellsOf(text).slice(1 + there)) {
      table.tBodies[0].append(element("tr", {}, ...cells.map((cell, i) => {
        const shown = numeric[i] ? inDigits(cell) : cell.replace(/^'(?=[=+\-@])/, "");  // the file guards what a spreadsheet would run
        return element("td", { class: numeric[i] ? "number" : shown.length > 24 ? "words" : null, "aria-label": shown === "\u2013" ? "n/a" : null }, shown);
      })));
    }
    sortable(table);
    note.textContent = rows < all ? `The first ${rows} of ${all} rows are shown; the page does not carry more.` : "";
    aloud.textContent = `${table.tBodies[0].rows.length} rows are shown.`;
    table.tHead.querySelector("button")?.focus();
  }

  for (const table of document.querySelectorAll("details.table table")) {
    const details = table.closest("details.table"), note = details.querySelector(":scope > p.muted"), block = details.querySelector("script[data-file]");
    if (table.hasAttribute("data-sortable") || !note || !block) continue;
    const button = element("button", { type: "button", class: "download", async click() {
      try {
        await showAll(table, note, block);
      } catch {
        button.disabled = true;
        button.textContent = "this browser cannot unpack the rows";
      }
    } }, "Show all and sort");
    note.append(" ", button);
  }
  for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
}
