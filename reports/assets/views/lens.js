// What every layer would say at every position: a cell's colour is the probability of its first choice, its text that choice.
{
  const { element, color, css, inkOn, ink, readout, keys, redraw, sized, number } = shared;

  views.lens = (host, data) => {
    const [n, m, k] = [data.layers.length, data.positions.length, data.k];
    const { line, say } = readout();
    const word = (cell, choice) => data.words[data.tokens[cell * k + choice]];
    const probability = (cell, choice) => data.probabilities[cell * k + choice] ?? NaN;
    const cells = Array.from({ length: n * m }, (_, cell) => {
      const back = color("viridis", probability(cell, 0));
      const position = cell % m;
      const right = data.ranks && data.ranks[cell] === 1;
      const box = element("td", { role: "gridcell", tabindex: "-1", class: right ? "right" : null, click: () => go(cell), focus: () => choose(cell) }, word(cell, 0));
      box.style.setProperty("background-color", css(back));
      box.style.setProperty("color", inkOn(back));
      box.setAttribute("aria-label", `${word(cell, 0)}, ${number(probability(cell, 0))}, at ${data.positions[position]}`);
      return box;
    });
    const head = element("tr", { role: "row" }, element("th", { role: "columnheader", scope: "col" }, data.layer_label),
      ...data.positions.map((token) => element("th", { role: "columnheader", scope: "col" }, token)));
    const body = data.layers.map((layer, i) => element("tr", { role: "row" }, element("th", { role: "rowheader", scope: "row" }, layer), ...cells.slice(i * m, i * m + m)));
    const table = element("table", { role: "grid", "aria-label": "First choice of every layer at every position" }, element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...body));
    const choices = element("ol", { class: "lens-choices" });
    const where = element("p", { class: "lens-where" });
    const chart = element("canvas", { "aria-hidden": "true" });
    const ranked = element("p", { class: "fine" });
    let at = n * m - 1;

    function choose(cell) {
      at = cell;
      const [layer, position] = [Math.floor(cell / m), cell % m];
      where.replaceChildren(`${data.layer_label} ${data.layers[layer]}, position ${data.numbers[position]} after \u201c`, element("bdi", {}, data.positions[position]), "\u201d");
      choices.replaceChildren(...Array.from({ length: k }, (_, choice) => {
        const bar = element("span", { class: "lens-bar" });
        bar.style.setProperty("width", `${Math.max(0, 100 * (probability(cell, choice) || 0))}%`);
        return element("li", {}, element("bdi", { class: "code" }, word(cell, choice)), element("span", { class: "number" }, number(probability(cell, choice))), element("span", { class: "lens-track" }, bar));
      }));
      const rank = data.ranks && data.ranks[cell];
      const target = data.targets && data.targets[position];
      say(`${data.layer_label} ${data.layers[layer]}, position ${data.numbers[position]}: \u201c${word(cell, 0)}\u201d ${number(probability(cell, 0))}`
        + (target && rank ? `; target \u201c${target}\u201d has rank ${rank}` : ""));
      ranked.textContent = target ? `Rank of the target \u201c${target}\u201d by layer (1 is the first choice)` : data.targets ? "No target at this position." : "";
      draw();
    }

    function draw() {
      const [layer, position] = [Math.floor(at / m), at % m];
      const ranks = data.ranks ? data.layers.map((_, i) => data.ranks[i * m + position]) : [];
      chart.hidden = !ranks.some((rank) => rank !== null);
      if (chart.hidden) return;
      const [width, height] = [Math.min(420, Math.max(200, chart.parentElement.clientWidth)), 110];
      const context = sized(chart, width, height);
      const most = Math.log10(Math.max(10, ...ranks));
      const x = (i) => 46 + (i / Math.max(1, n - 1)) * (width - 60);
      const y = (rank) => 10 + (Math.log10(rank) / most) * (height - 34);
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = ink("muted");
      context.textAlign = "right";
      for (let e = 0; e <= most; e += Math.ceil(most / 4)) context.fillText((10 ** e).toLocaleString("en"), 40, y(10 ** e) + 4);
      context.textAlign = "center";
      for (const i of new Set([0, Math.floor((n - 1) / 2), n - 1])) context.fillText(data.layers[i], x(i), height - 4);
      context.strokeStyle = ink("link");
      context.lineWidth = 1.5;
      context.beginPath();
      ranks.forEach((rank, i) => rank === null || context.lineTo(x(i), y(rank)));
      context.stroke();
      if (ranks[layer] !== null) {
        context.fillStyle = ink("ink");
        context.beginPath();
        context.arc(x(layer), y(ranks[layer]), 4, 0, 7);
        context.fill();
      }
    }

    function go(cell) {
      cells[at].tabIndex = -1;
      cells[cell].tabIndex = 0;
      if (document.activeElement === cells[cell]) choose(cell);
      else cells[cell].focus();
    }

    keys(table, (down, right) => {
      const [layer, position] = [Math.floor(at / m), at % m];
      const clamp = (value, most) => Math.min(most - 1, Math.max(0, value));
      go(clamp(layer + down, n) * m + clamp(position + right, m));
    });
    const frame = element("div", { class: "scroll lens" }, table);
    host.append(
      frame,
      element("div", { class: "lens-side" }, element("div", {}, where, choices), element("div", {}, ranked, chart)),
      line,
      element("p", { class: "fine" }, `Colour: probability of the first choice, dark 0 to yellow 1.${data.ranks ? " Underlined: the target is the first choice." : ""} Click a cell or use the arrow keys for its first ${k}.${data.said ? ` Shown: ${data.said}.` : ""}`),
    );
    cells[at].tabIndex = 0;
    redraw(host, draw);
    choose(at);
    [frame.scrollTop, frame.scrollLeft] = [frame.scrollHeight, frame.scrollWidth];  // the chosen cell is the last one
  };
}
