// The tokens of the attention explorer: one strip, or two where queries and keys are other texts. What is looked at is coloured.
{
  // {elements, color(map, line, state, best)}: best is the strongest of the line. chosen("query" or "key", token) is told what was picked, by click or by arrow keys.
  shared.attentionTokens = ({ id, data, named, chosen, colorOf, visible }) => {
    const { element } = shared, one = !data.keys, keys = data.keys ?? data.queries;
    const size = (tokens, blocks) => Math.ceil(tokens.length / blocks);
    const [target, source] = data.sees === "cross" ? ["Target", "Source"] : ["Query", "Key"];
    const sides = one
      ? [{ side: "both", tokens: keys, per: size(keys, data.maps.shape[1]), label: "Tokens: choose one for its row, with Shift for its column" }]
      : [{ side: "query", tokens: data.queries, per: size(data.queries, data.maps.shape[0]), label: `${target} tokens: choose one for its row` },
        { side: "key", tokens: keys, per: size(keys, data.maps.shape[1]), label: `${source} tokens: choose one for its column` }];
    const at = (state, side) => (side === "key" || (side === "both" && state.by === "column") ? state.key : state.query);
    let now;

    function strip({ side, tokens, per, label }) {
      const boxes = Array.from({ length: Math.ceil(tokens.length / per) }, (_, i) => element("span", { role: "option", class: "token-box",
        id: `${id}-${side}-${i}`, title: named(tokens, i, per) }, tokens[i * per] + (per > 1 ? "\u2026" : "")));
      const made = element("div", { class: "token-strip", role: "listbox", tabindex: "0", "aria-label": label }, ...boxes);
      const pick = (token, event) => chosen(side === "key" || (side === "both" && event.shiftKey) ? "key" : "query", token);
      made.addEventListener("click", (event) => {
        const box = event.target.closest(".token-box");
        if (box) pick(boxes.indexOf(box) * per, event);
      });
      shared.keys(made, (down, right, event) => pick(Math.max(0, Math.min(tokens.length - 1, at(now, side) + (right + down) * per)), event),
        (event) => pick(at(now, side), event));
      return { made, boxes };
    }
    const strips = sides.map((side) => ({ ...side, ...strip(side) }));

    function reveal({ made: frame, boxes }, place) {
      const box = boxes[place];
      if (box.offsetTop < frame.scrollTop || box.offsetTop + 24 > frame.scrollTop + frame.clientHeight) frame.scrollTop = box.offsetTop - frame.clientHeight / 2;
    }

    function color(map, line, state, best) {
      now = state;
      const across = state.by === "row", looked = across ? "key" : "query", per = across ? map.k : map.q;
      for (const own of strips) {
        const chosenHere = own.side === "both" || own.side !== looked, coloured = own.side === "both" || own.side === looked;
        const place = Math.floor(at(state, own.side) / own.per);
        own.boxes.forEach((box, i) => {
          const i2 = Math.min(line.length - 1, Math.floor((i * own.per) / per));
          const shade = coloured && visible(i2) ? colorOf(map, line[i2]) : null;
          box.style.setProperty("background", shade ? shared.css(shade) : "transparent");
          box.style.setProperty("color", shade ? shared.inkOn(shade) : "inherit");
          box.setAttribute("aria-selected", chosenHere && i === place);
        });
        own.made.setAttribute("aria-activedescendant", own.boxes[place].id);
        if (coloured && best >= 0 && document.activeElement !== own.made) reveal(own, Math.min(own.boxes.length - 1, Math.floor((best * per) / own.per)));
        else reveal(own, place);
      }
    }
    const titled = (own) => (one ? [own.made] : [element("p", { class: "muted strip-name", "aria-hidden": "true" }, own.label), own.made]);
    return { elements: strips.flatMap(titled), color };
  };
}
