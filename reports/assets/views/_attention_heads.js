// The thumbnails of all heads on one canvas: layers down and heads across, or in the order of a score. One stop of the keyboard.
{
  const GAP = 3, FLAG = "#ff8c1a";

  // {element, draw(), show()}: draw paints everything anew, show moves the frame to state.head. set(change) is told what was chosen.
  shared.attentionHeads = ({ id, data, thumbnails, state, cellColor, set, flagged, count }) => {
    const { element } = shared, n = data.labels.length, all = data.labels.map((_, head) => head);
    const canvas = element("canvas", { "aria-hidden": "true" }), frame = element("div", { class: "chosen" });
    const current = element("div", { role: "option", id: `${id}-head`, class: "unseen", "aria-selected": "true" });
    const list = element("div", { class: "heads", role: "listbox", tabindex: "0", "aria-label": "Heads: arrow keys choose one",
      "aria-activedescendant": `${id}-head` }, canvas, frame, current);
    const placed = new Map(data.places.map((place, head) => [place.join(), head]));
    const ends = [0, 1].map((side) => Math.max(...data.places.map((place) => place[side])));
    let order, spots, across, cell, gutter;

    const score = (head) => data.scores[state.score]?.[head] ?? -Infinity;
    const passes = (head) => state.least === "" || !state.score || score(head) >= Number(state.least);

    function arrange() {
      const sorted = state.sort && state.score;
      order = sorted ? all.filter(passes).sort((a, b) => score(b) - score(a) || a - b) : all;
      gutter = data.placed && !sorted ? 24 : 2;
      const most = Math.max(40, Math.min(72, Math.floor(300 / (ends[0] + 1))));  // few heads are shown larger
      cell = Math.max(24, Math.min(most, Math.floor((list.clientWidth - gutter - 4) / (ends[1] + 1)) - GAP));
      across = sorted ? Math.max(1, Math.floor((list.clientWidth - gutter) / (cell + GAP))) : ends[1] + 1;
      spots = new Map(order.map((head, i) => {
        const [down, right] = sorted ? [Math.floor(i / across), i % across] : data.places[head];
        return [head, [gutter + right * (cell + GAP), gutter + down * (cell + GAP)]];
      }));
    }

    function draw() {
      arrange();
      const extent = [0, 1].map((side) => Math.max(0, ...[...spots.values()].map((spot) => spot[side])) + cell + 4);
      const context = shared.sized(canvas, ...extent);
      for (const [head, [left, top]] of spots) {
        const { rows, columns } = thumbnails[head];
        context.globalAlpha = passes(head) ? 1 : 0.12;
        shared.paint(context, rows, columns, (i) => cellColor(thumbnails[head], data.code, i), left, top, cell, cell);
        [context.strokeStyle, context.lineWidth] = [FLAG, 2.5];
        if (flagged(head)) context.strokeRect(left - 0.5, top - 0.5, cell + 1, cell + 1);
      }
      context.globalAlpha = 1;
      if (gutter > 2) nameAxes(context);
      const groups = data.group > 1 ? `, ${data.group} to a key-value head` : "";
      count.textContent = `${all.filter(passes).length} of ${n} heads${groups}; framed: flagged`;
    }

    function nameAxes(context) {
      context.fillStyle = context.strokeStyle = shared.ink("muted");
      [context.font, context.textBaseline, context.textAlign, context.lineWidth] = ["11px system-ui, sans-serif", "middle", "center", 1];
      const middle = (i) => gutter + (i + 0.5) * (cell + GAP) - GAP / 2;
      for (let i = 0; i <= ends[1]; i++) context.fillText(i, middle(i), 9);
      for (let i = 0; data.group > 1 && i <= ends[1]; i += data.group) {
        context.strokeRect(gutter + i * (cell + GAP), 18.5, Math.min(data.group, ends[1] + 1 - i) * (cell + GAP) - 4, 0);
      }
      context.textAlign = "right";
      for (let i = 0; i <= ends[0]; i++) context.fillText(i, gutter - 5, middle(i));
    }

    function show() {
      const [left, top] = spots.get(state.head) ?? [0, 0];
      frame.hidden = !spots.has(state.head);
      for (const [name, value] of Object.entries({ left: left - 4, top: top - 4, width: cell + 8, height: cell + 8 })) {
        frame.style.setProperty(name, `${value}px`);
      }
      if (top < list.scrollTop || top + cell > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 2;
      if (left < list.scrollLeft || left + cell > list.scrollLeft + list.clientWidth) list.scrollLeft = left - list.clientWidth / 2;
      current.textContent = data.labels[state.head] + (flagged(state.head) ? `, flagged: ${data.notes[state.head]}` : "");
      current.setAttribute("aria-posinset", 1 + Math.max(0, order.indexOf(state.head)));
      current.setAttribute("aria-setsize", order.length);
    }

    function step(down, right) {
      if (data.placed && order === all) {
        const to = [down, right].map((by, side) => Math.max(0, Math.min(ends[side], data.places[state.head][side] + by)));
        return set({ head: placed.get(to.join()) ?? state.head });
      }
      const to = order.indexOf(state.head) + Math.max(-n, Math.min(n, right)) + down * across;
      return set({ head: order[Math.max(0, Math.min(order.length - 1, to))] ?? state.head });
    }

    function headAt(event) {
      const box = canvas.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
      return order.find((head) => {
        const [left, top] = spots.get(head);
        return x >= left && x <= left + cell && y >= top && y <= top + cell;
      });
    }
    canvas.addEventListener("click", (event) => {
      const head = headAt(event);
      if (head !== undefined) set({ head });
    });
    canvas.addEventListener("pointermove", (event) => {
      const head = headAt(event);
      list.title = head === undefined ? "" : data.labels[head] + (flagged(head) ? `: ${data.notes[head]}` : "");
    });
    shared.keys(list, step);
    return { element: list, draw, show };
  };
}
