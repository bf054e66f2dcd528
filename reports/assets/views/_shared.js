// What all views use: elements made of text, colours, canvases at the screen's own resolution, packed numbers, words for a reader.
{
  // Every 8th colour of Matplotlib's viridis, the 11 of its RdBu_r: what lies between is mixed.
  const STOPS = {
    viridis: "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f978b1f9f8821a68527ad8131b57b3dbc744cc26c5cc8636ece5881d34d95d840aadc32c0df25d5e21aeae51afde725",
    signed: "0530612267ac4393c390c4ddd1e5f0f7f6f6fddbc7f4a683d6604db1182b67001f",
  };
  shared.missing = [139, 146, 155];

  const tables = {};
  for (const [name, hex] of Object.entries(STOPS)) {
    const stops = hex.match(/../g).map((pair) => parseInt(pair, 16));
    const last = stops.length / 3 - 1;
    tables[name] = Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * last, low = Math.min(last - 1, Math.floor(at));
      return [0, 1, 2].map((c) => Math.round(stops[3 * low + c] + (at - low) * (stops[3 * low + 3 + c] - stops[3 * low + c])));
    });
  }

  // [red, green, blue] of a share from 0 to 1 on the scale "viridis" or "signed" (0.5 is zero there); NaN is the grey of what is missing.
  shared.color = (scale, share) => (Number.isNaN(share) ? shared.missing : tables[scale][Math.round(255 * Math.min(1, Math.max(0, share)))]);
  shared.css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

  // Black or white, whichever stands out more from a colour.
  shared.inkOn = (color) => {
    const [red, green, blue] = color.map((c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
  };

  // A colour of the page's own style, as it is now.
  shared.ink = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // The same as [red, green, blue].
  shared.rgb = (name) => shared.ink(name).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));

  // <tag attributes>children</tag>: text is text, attributes are set by name, functions listen.
  shared.element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  // A number in four digits with the minus sign of the page.
  shared.number = (value) => (Number.isNaN(value) ? "no value" : String(Number(value.toPrecision(Math.abs(value) < 1 ? 3 : 4))).replace("-", "\u2212"));

  // UInt8Array of base64 of deflated bytes.
  shared.inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(whole).arrayBuffer());
  };

  // Give a canvas its size in CSS pixels and return its context in those units, empty.
  shared.sized = (canvas, width, height) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.setProperty("width", `${width}px`);
    canvas.style.setProperty("height", `${height}px`);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  };

  // Paint a grid of colours, colorOf(i) → [red, green, blue] in row-major order, with sharp edges where it is enlarged.
  const grid = document.createElement("canvas");
  shared.paint = (context, rows, columns, colorOf, left, top, width, height) => {
    [grid.width, grid.height] = [columns, rows];
    const own = grid.getContext("2d");
    const image = own.createImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) {
      const color = colorOf(i);
      image.data[4 * i] = color[0];
      image.data[4 * i + 1] = color[1];
      image.data[4 * i + 2] = color[2];
      image.data[4 * i + 3] = 255;
    }
    own.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = width < columns;
    context.drawImage(grid, left, top, width, height);
  };

  // A colour bar between its ends in words: draw(low, high, colorOf(share)).
  shared.ramp = () => {
    const { element } = shared, canvas = element("canvas", { "aria-hidden": "true" }), ends = [element("span"), element("span")];
    return { elements: [ends[0], canvas, ends[1]], draw(low, high, colorOf) {
      shared.paint(shared.sized(canvas, 160, 12), 1, 160, (i) => colorOf(i / 159), 0, 0, 160, 12);
      [ends[0].textContent, ends[1].textContent] = [low, high];
    } };
  };

  // A line that is read aloud when it changes; fast changes are read once, at their end.
  shared.readout = () => {
    const line = shared.element("p", { class: "readout", role: "status", "aria-live": "polite" });
    let waiting = 0;
    return { line, say(text) {
      clearTimeout(waiting);
      line.textContent ? (waiting = setTimeout(() => (line.textContent = text), 40)) : (line.textContent = text);
    } };
  };

  // Arrow keys, Home, End and Page keys as steps on a grid of columns: move(steps down, steps right, event); Enter and space choose.
  shared.keys = (element, move, choose) => element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0],
      Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    const chosen = event.key === "Enter" || event.key === " ";
    if (!step && !(chosen && choose)) return;
    event.preventDefault();
    step ? move(step[0], step[1], event) : choose(event);
  });

  // Draw again when the theme changes, and when the element gets another width (never within that notice: sizes may feed back).
  shared.redraw = (element, draw) => {
    root.addEventListener("themechange", draw);
    let before = element.clientWidth;
    new ResizeObserver(() => {
      if (element.clientWidth === before) return;
      before = element.clientWidth;
      requestAnimationFrame(draw);
    }).observe(element);
  };

  // What a view remembers in the page's address, after its own id. A frame without an address remembers nothing.
  shared.remembered = (id) => {
    const [name, query] = location.hash.slice(1).split("?");
    return name === id && query !== undefined ? new URLSearchParams(query) : null;
  };
  shared.remember = (id, state) => {
    try {
      history.replaceState(null, "", `#${id}?${new URLSearchParams(state)}`);
    } catch { /* srcdoc has no address of its own */ }
  };
}
