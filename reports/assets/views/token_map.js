// Text whose tokens have a number: a box per token, a row per method; the same token of all rows is read out together.
{
  const { element, color, css, inkOn, readout, keys } = shared;

  views.token_map = (host, data) => {
    const scale = data.signed ? "signed" : "viridis";
    const { line, say } = readout();
    const cells = data.rows.map((row, r) => row.tokens.map((token, i) => {
      const back = color(scale, row.shares[i] ?? NaN);
      const box = element("bdi", {
        role: "gridcell", tabindex: "-1", title: `${i}: ${row.values[i]}`,
        mouseenter: () => tell(r, i), focus: () => tell(r, i), click: () => go(r, i),
      }, token);
      box.style.setProperty("background-color", css(back));
      box.style.setProperty("color", inkOn(back));
      return box;
    }));
    const rows = data.rows.map((row, r) => element("div", { role: "row", class: "token-row" },
      element("div", { role: "rowheader", class: "token-name" }, row.name, row.note ? element("span", { class: "muted" }, ` ${row.note}`) : ""),
      ...cells[r].flatMap((box, i) => (row.breaks.includes(i) ? [box, element("br", { role: "presentation" })] : [box]))));
    const grid = element("div", { role: "grid", "aria-label": "Tokens and their numbers", class: "token-map" }, ...rows);
    let [atRow, atToken] = [data.rows.findIndex((row) => row.tokens.length), 0];

    function tell(r, i) {
      for (const box of grid.querySelectorAll(".same")) box.classList.remove("same");
      const others = data.rows.map((row, n) => n).filter((n) => data.rows[n].tokens[i] === data.rows[r].tokens[i]);
      for (const n of others) if (n !== r) cells[n][i].classList.add("same");
      const said = (others.includes(r) ? others : [r]).map((n) => `${data.rows[n].name || "value"} ${data.rows[n].values[i]}`);
      say(`Position ${i}, \u201c${data.rows[r].tokens[i]}\u201d: ${said.join("; ")}`);
    }

    function go(r, i) {
      cells[atRow][atToken].tabIndex = -1;
      [atRow, atToken] = [r, i];
      cells[r][i].tabIndex = 0;
      cells[r][i].focus();
    }

    keys(grid, (down, right) => {
      let r = atRow;
      for (let n = Math.sign(down); n && data.rows[atRow + n]; n += Math.sign(down)) {
        if (!data.rows[atRow + n].tokens.length) continue;
        r = atRow + n;
        break;
      }
      go(r, Math.min(data.rows[r].tokens.length - 1, Math.max(0, atToken + right)));
    });
    cells[atRow][atToken].tabIndex = 0;
    line.textContent = "Point at a token, or use the arrow keys.";
    host.append(grid, line, element("p", { class: "fine" }, data.range));
  };
}
