// Parts of a model from left to right, an arc for each edge: red above, blue below. A node shows its own edges and reads them out.
{
  const { element, readout, keys } = shared;
  const STEP = 25;
  const COLORS = { "1": "#cf5246", "-1": "#3f7fc8", "0": "#8b929b" };

  const drawn = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  views.circuit = (host, data) => {
    const { line, say } = readout();
    const longest = Math.max(...data.nodes.map((node) => node.label.length));
    const column = Math.min(110, Math.max(62, 8 * longest + 10));
    const reach = (sign) => Math.max(0, ...data.edges.filter((edge) => (edge.sign < 0) === (sign < 0)).map((edge) => Math.abs(edge.to - edge.from) || 1));
    const middle = 34 + STEP * reach(1), lower = middle + 46;
    const width = column * data.nodes.length, height = lower + STEP * reach(-1) + (reach(-1) ? 22 : 4);
    const x = (node) => column * (node + 0.5);
    const arcs = data.edges.map((edge) => {
      const negative = edge.sign < 0, base = negative ? lower : middle - 13;
      const radius = Math.abs(x(edge.to) - x(edge.from)) / 2 || 8, rise = STEP * (Math.abs(edge.to - edge.from) || 1);
      const [left, right] = [Math.min(x(edge.from), x(edge.to)), Math.max(x(edge.from), x(edge.to))];
      const path = drawn("path", { d: `M ${left} ${base} A ${radius} ${rise} 0 0 ${negative ? 0 : 1} ${right} ${base}`, fill: "none",
        stroke: COLORS[edge.sign], "stroke-width": 0.8 + 5.2 * edge.width, "stroke-opacity": 0.35 + 0.5 * edge.width });
      const text = drawn("text", { x: (left + right) / 2, y: base + (negative ? rise + 15 : -rise - 6), "text-anchor": "middle", class: "arc-value" }, edge.value);
      return drawn("g", { class: "arc" }, path, text);
    });
    const nodes = data.nodes.map((node, i) => drawn("g", { class: "node", role: "button", tabindex: i ? "-1" : "0", "aria-label": said(i) },
      drawn("rect", { x: x(i) - column / 2 + 2, y: middle - 14, width: column - 4, height: 52, rx: 6, class: "node-box" }),
      drawn("circle", { cx: x(i), cy: middle, r: 3 + 7 * Math.sqrt(node.size), fill: COLORS[node.sign] }),
      drawn("text", { x: x(i), y: middle + 22, "text-anchor": "middle", class: "node-name" }, node.label),
      drawn("text", { x: x(i), y: middle + 35, "text-anchor": "middle", class: "node-value" }, node.value)));
    const picture = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Parts and the paths between them" }, ...arcs.reverse(), ...nodes);
    arcs.reverse();

    function said(i) {
      const node = data.nodes[i];
      const words = (edges, other) => edges.map((edge) => `${data.nodes[edge[other]].label} ${edge.value}${edge.note ? ` (${edge.note})` : ""}`).join(", ");
      const [into, out] = [data.edges.filter((edge) => edge.to === i), data.edges.filter((edge) => edge.from === i)];
      return `${node.label}, ${data.node_label} ${node.value}. ${into.length ? `From ${words(into, "from")}. ` : ""}${out.length ? `To ${words(out, "to")}.` : ""}`;
    }

    function show(i) {
      picture.classList.toggle("lit", i !== null);
      data.edges.forEach((edge, e) => arcs[e].classList.toggle("near", edge.from === i || edge.to === i));
      nodes.forEach((node, j) => node.classList.toggle("near", j === i));
      if (i !== null) say(said(i));
    }

    let at = 0;
    const go = (i) => {
      nodes[at].setAttribute("tabindex", "-1");
      at = i;
      nodes[i].setAttribute("tabindex", "0");
      nodes[i].focus();
    };
    nodes.forEach((node, i) => {
      node.addEventListener("mouseenter", () => show(i));
      node.addEventListener("focus", () => show(i));
      node.addEventListener("click", () => go(i));
    });
    picture.addEventListener("mouseleave", () => show(nodes.includes(document.activeElement) ? at : null));
    picture.addEventListener("focusout", (event) => picture.contains(event.relatedTarget) || show(null));
    keys(picture, (down, right) => go(Math.min(nodes.length - 1, Math.max(0, at + (right || down)))), () => show(at));
    line.textContent = "Choose a part to see and read its own paths.";
    host.append(element("div", { class: "scroll circuit" }, picture), line, element("p", { class: "fine" },
      `Arc: ${data.edge_label}; circle: ${data.node_label}${data.unit ? ` (${data.unit})` : ""}. Red above: positive, blue below: negative. Point at a part, or use the arrow keys. ${data.said}`));
  };
}
