// The attention explorer: thumbnails of all heads, the map of one, and its tokens, coloured by what the chosen one looks at.
{
  const SCALES = { linear: (share) => share, "square root": Math.sqrt, logarithm: (share) => Math.max(0, 1 + Math.log10(share) / 4) };

  const named = (tokens, block, per) => {
    const from = block * per, to = Math.min(tokens.length, from + per) - 1;
    return from === to ? `${from} '${tokens[from]}'` : `${from}\u2013${to}`;
  };

  views.attention = async (host, data) => {
    const { element } = shared, id = host.dataset.from, keys = data.keys ?? data.queries, scoreNames = Object.keys(data.scores);
    const flagged = (head) => head in data.notes;
    const state = { head: data.first, query: data.queries.length - 1, key: 0, by: "row", cell: false, scale: "square root", hide: false, minus: -1,
      score: data.score, least: "", sort: false };
    const maps = await shared.attentionMaps(data);
    let map;

    const colorOf = ({ top, signed }, value) => {
      const part = SCALES[state.scale](Math.min(1, Math.abs(value) / top));
      return shared.color(signed ? "signed" : "viridis", signed ? 0.5 + Math.sign(value) * part / 2 : part);
    };
    let grey;
    const cellColor = (map, scale, i) => (data.triangle && i % map.columns > Math.floor(i / map.columns) ? grey : colorOf(scale, map.values[i]));
    const row = () => Math.min(map.rows - 1, Math.floor(state.query / map.q));
    const column = () => Math.min(map.columns - 1, Math.floor(state.key / map.k));
    const at = (i, j) => map.values[i * map.columns + j];
    const line = () => (state.by === "row" ? [...map.values.subarray(row() * map.columns, (row() + 1) * map.columns)]
      : Array.from({ length: map.rows }, (_, i) => at(i, column())));
    const visible = (i) => !data.triangle || (state.by === "row" ? i <= row() : i >= column());
    const ranked = () => line().map((value, i) => ({ value, i })).filter(({ value, i }) => visible(i) && !Number.isNaN(value))
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value) || a.i - b.i);

    // Words.
    const title = () => data.labels[state.head] + (state.minus < 0 ? "" : ` \u2212 ${data.labels[state.minus]}`);
    const queryName = (i) => named(data.queries, i, map.q), keyName = (i) => named(keys, i, map.k);
    function sentence() {
      const [best] = ranked(), across = state.by === "row";
      const which = across ? `query ${queryName(row())}` : `key ${keyName(column())}`;
      if (!best) return `${title()}, ${which}: no value`;
      const whom = across ? `key ${keyName(best.i)}` : `query ${queryName(best.i)}`;
      const cell = state.cell && across ? `; key ${keyName(column())}: ${shared.number(at(row(), column()))}` : "";
      return `${title()}, ${which}: ${state.minus < 0 ? "strongest" : "largest difference,"} ${whom}, ${shared.number(best.value)}${cell}`;
    }

    // What a reader can turn.
    const turn = (kind, name, made) => {
      made.addEventListener(kind, () => set({ [name]: made.type === "checkbox" ? made.checked : made.value }));
      return made;
    };
    const choice = (name, options) => turn("change", name, element("select", {}, ...options.map((one) => element("option", { value: one }, one))));
    const tick = (name) => turn("change", name, element("input", { type: "checkbox" }));
    const turned = { scale: choice("scale", Object.keys(SCALES)), hide: tick("hide"), score: choice("score", scoreNames),
      least: turn("input", "least", element("input", { type: "number", step: "0.05" })), sort: tick("sort") };
    const subtract = element("button", { type: "button", click: () => set({ minus: state.minus < 0 ? state.head : -1 }) });
    const count = element("span", { class: "muted" });
    const ends = data.sees === "causal" ? "first token" : "first and last token";
    const controls = element("div", { class: "controls" }, element("label", {}, "colours ", turned.scale),
      element("label", {}, turned.hide, ` without the ${ends}, renormalised`), subtract);
    const scores = element("div", { class: "controls" }, element("label", {}, "score ", turned.score), element("label", {}, "at least ", turned.least),
      element("label", {}, turned.sort, " sorted by it"), count);

    // What a reader sees.
    const heads = shared.attentionHeads({ id, data, thumbnails: maps.thumbnails, state, cellColor, flagged, count, set: (change) => set(change) });
    const picture = shared.attentionPicture({ queries: data.queries, keys, square: !data.keys, cellColor,
      words: (cell) => `query ${queryName(cell.row)}, key ${keyName(cell.column)}: ${shared.number(at(cell.row, cell.column))}`,
      moved: (down, right) => set({ query: bounded((row() + down) * map.q, data.queries), key: bounded((column() + right) * map.k, keys), by: "row",
        cell: right !== 0 || state.cell }),
      chosen: (event) => set({ by: event.shiftKey ? "column" : "row", cell: false }),
      pointed: (cell, event) => set({ query: cell.row * map.q, key: cell.column * map.k, by: event.shiftKey ? "column" : "row", cell: !event.shiftKey }) });
    const tokens = shared.attentionTokens({ id, data, named, colorOf, visible,
      chosen: (side, token) => set({ [side]: token, by: side === "key" ? "column" : "row", cell: false }) });
    const bounded = (token, all) => Math.max(0, Math.min(all.length - 1, token));
    const { line: readout, say } = shared.readout(), heading = element("p", { class: "head-name" });
    const ramp = shared.ramp();
    const other = element("th", { scope: "col" }), body = element("tbody");
    const table = element("details", { toggle: tabulate }, element("summary", {}, "these numbers as a table"),
      element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Numbers of the row or column" },
        element("table", {}, element("thead", {}, element("tr", {}, other, element("th", { scope: "col" }, "token"),
          element("th", { scope: "col", class: "number" }, data.unit))), body)));
    const explorer = element("div", { class: "explorer" }, heads.element,
      element("div", { class: "one" }, heading, readout, element("div", { class: "ramp" }, ...ramp.elements, element("span", { class: "muted" }, data.unit),
        ...(data.triangle ? [element("i"), element("span", { class: "muted" }, "masked")] : [])), ...picture.elements),
      element("div", { class: "under" }, ...tokens.elements, table));
    const warning = document.getElementById("attention") ? "" : "Attention is not importance: ablation tells whether a head matters. ";
    host.append(controls, ...(scoreNames.length ? [scores] : []), explorer, element("p", { class: "caption" }, warning + data.said));

    function tabulate() {
      if (!table.open || !map) return;
      const [words, per] = state.by === "row" ? [keys, map.k] : [data.queries, map.q];
      other.textContent = state.by === "row" ? "key" : "query";
      body.replaceChildren(...ranked().map(({ value, i }) => element("tr", {}, element("td", { class: "number" }, per === 1 ? `${i}` : named(words, i, per)),
        element("td", { class: "code" }, element("bdi", {}, words[i * per])), element("td", { class: "number" }, shared.number(value)))));
    }

    // What follows a change; of quick ones only the last is drawn.
    let turns = 0;
    async function show(everything) {
      const mine = ++turns, found = await maps.shown(state);
      if (mine !== turns) return;
      map = found;
      grey = shared.rgb("rule");
      if (everything) {
        heads.draw();
        if (!state.sort) explorer.classList.toggle("short", heads.element.scrollHeight < 400);
      }
      heads.show();
      for (const [name, made] of Object.entries(turned)) {
        if (made.type === "checkbox") made.checked = state[name];
        else if (made.value !== state[name]) made.value = state[name];
      }
      turned.hide.disabled = !maps.canHide(map);
      subtract.textContent = state.minus < 0 ? `subtract ${data.labels[state.head]} from others` : `stop subtracting ${data.labels[state.minus]}`;
      subtract.setAttribute("aria-pressed", state.minus >= 0);
      heading.textContent = [title(), ...(flagged(state.head) ? [data.notes[state.head]] : []), ...(map.q * map.k > 1 ? ["in blocks of tokens"] : [])].join(" \u00b7 ");
      picture.draw(map, { row: row(), column: column(), by: state.by, cell: state.cell });
      ramp.draw(map.signed ? shared.number(-map.top) : "0", shared.number(map.top), (share) => colorOf(map, (map.signed ? 2 * share - 1 : share) * map.top));
      tokens.color(map, line(), state, ranked()[0]?.i ?? -1);
      tabulate();
      say(sentence());
    }
    function set(change) {
      Object.assign(state, change);
      const { head, minus, ...rest } = state;
      shared.remember(id, { head: data.labels[head], ...rest, ...(minus < 0 ? {} : { minus: data.labels[minus] }) });
      return show(["scale", "score", "least", "sort"].some((name) => name in change));
    }
    function restore() {
      const kept = shared.remembered(id);
      if (!kept) return false;
      const token = (name, all) => bounded(Math.floor(Number(kept.get(name))) || 0, all);
      const known = (name, names) => (names.includes(kept.get(name)) ? kept.get(name) : state[name]);
      Object.assign(state, { head: Math.max(0, data.labels.indexOf(kept.get("head"))), minus: data.labels.indexOf(kept.get("minus")),
        query: token("query", data.queries), key: token("key", keys), by: known("by", ["row", "column"]), scale: known("scale", Object.keys(SCALES)),
        score: known("score", scoreNames), least: Number.isFinite(Number(kept.get("least"))) ? kept.get("least") ?? "" : "",
        cell: kept.get("cell") === "true", hide: kept.get("hide") === "true", sort: kept.get("sort") === "true" });
      return true;
    }
    addEventListener("hashchange", () => restore() && show(true));
    const returned = restore();
    await show(true);
    if (returned) host.scrollIntoView();
    shared.redraw(host, () => show(true));
  };
}
