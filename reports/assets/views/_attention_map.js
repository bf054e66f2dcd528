// The map of one head on a canvas: queries down, keys across, the chosen row or column framed.
{
  const LARGEST = 24, TALLEST = 560;

  // {element, draw(map, place)}: place is {row, column, by, cell}. moved(steps) and chosen(event) come from the keyboard, pointed from a click.
  shared.attentionPicture = ({ queries, keys, square, cellColor, words, moved, chosen, pointed }) => {
    const { element } = shared;
    const canvas = element("canvas", { "aria-hidden": "true" }), under = element("p", { class: "pointed muted", "aria-hidden": "true" });
    const area = element("div", { class: "map", role: "application", tabindex: "0",
      "aria-label": "Map, queries down, keys across: arrow keys move, Enter takes the row, Shift and Enter the column" }, canvas);
    let frame, map;

    function draw(shown, place) {
      map = shown;
      const wide = Math.max(160, area.clientWidth), { rows, columns } = map;
      const tokens = map.q === 1 && map.k === 1 && (wide - 92) / columns >= 12 && rows <= 40;
      const [left, top] = tokens ? [88, 80] : [32, 18], most = map.whole ? LARGEST : 14;
      let [w, h] = [Math.min(most, (wide - left - 4) / columns), Math.min(most, TALLEST / rows)];
      if (square) w = h = Math.min(w, h);
      frame = { left, top, w, h };
      const context = shared.sized(canvas, left + w * columns + 3, top + h * rows + 3);
      shared.paint(context, rows, columns, (i) => cellColor(map, map, i), left, top, w * columns, h * rows);
      name(context, tokens);
      const box = place.by === "row" ? [left, top + place.row * h, w * columns, h] : [left + place.column * w, top, w, h * rows];
      const around = ([x, y, width, height], by) => context.strokeRect(x - by, y - by, width + 2 * by, height + 2 * by);
      for (const [color, by] of [["#000", 2], ["#fff", 1]]) {  // around it: a row may be two pixels high
        [context.strokeStyle, context.lineWidth] = [color, 1];
        around(box, by);
        if (place.cell) around([left + place.column * w, top + place.row * h, w, h], by);
      }
    }

    // Tokens where each has room, else positions.
    function name(context, tokens) {
      const { left, top, w, h } = frame;
      const some = (many, side, needed) => {
        const step = [1, 2, 4, 8, 16, 32, 64, 128].find((one) => one * side >= needed) ?? many;
        return Array.from({ length: Math.ceil(many / step) }, (_, i) => i * step);
      };
      context.fillStyle = shared.ink("muted");
      [context.font, context.textBaseline, context.textAlign] = [tokens ? "11px ui-monospace, monospace" : "11px system-ui, sans-serif", "middle", "right"];
      for (const i of some(map.rows, h, 12)) context.fillText(tokens ? queries[i] : i * map.q, left - 5, top + (i + 0.5) * h, left - 6);
      context.textAlign = tokens ? "left" : "center";
      for (const i of some(map.columns, w, tokens ? 12 : 30)) {
        context.save();
        context.translate(left + (i + 0.5) * w, top - (tokens ? 5 : 9));
        if (tokens) context.rotate(-Math.PI / 2);
        context.fillText(tokens ? keys[i] : i * map.k, 0, 0, tokens ? top - 6 : 40);
        context.restore();
      }
    }

    function cellAt(event) {
      const box = canvas.getBoundingClientRect();
      const row = Math.floor((event.clientY - box.top - frame.top) / frame.h);
      const column = Math.floor((event.clientX - box.left - frame.left) / frame.w);
      return row >= 0 && column >= 0 && row < map.rows && column < map.columns ? { row, column } : null;
    }
    canvas.addEventListener("click", (event) => {
      const at = cellAt(event);
      if (at) pointed(at, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = cellAt(event);
      under.textContent = at ? words(at) : "";
    });
    shared.keys(area, moved, chosen);
    return { elements: [area, under], draw };
  };
}
