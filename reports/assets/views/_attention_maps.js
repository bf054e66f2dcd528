// The numbers of the attention explorer: thumbnails of all heads from the start, whole maps when they are asked for.
{
  // Float32Array, row-major, of bytes that run key after key; of a triangle only the queries from the key on.
  function decode(bytes, start, rows, columns, data) {
    const { top, signed } = data.code;
    const meaning = Float32Array.from({ length: 256 }, (_, code) => {
      const root = signed ? code / 127 - 1 : code / 254;
      return code === 255 ? NaN : Math.sign(root) * root * root * top;
    });
    const values = new Float32Array(rows * columns);
    for (let key = 0, at = start; key < columns; key++) {
      for (let query = data.triangle ? key : 0; query < rows; query++) values[query * columns + key] = meaning[bytes[at++]];
    }
    return values;
  }

  // Rows without the sinks, summing to 1 again; a row that holds nothing else has no value.
  function without(map, sinks) {
    const values = map.values.slice();
    for (let row = 0; row < map.rows; row++) {
      const own = values.subarray(row * map.columns, (row + 1) * map.columns);
      sinks.forEach((sink) => (own[sink] = NaN));
      const rest = own.reduce((sum, value) => sum + (value || 0), 0);
      own.forEach((value, key) => (own[key] = rest > 1e-3 ? value / rest : NaN));
    }
    return { ...map, values };
  }

  // What is known of the heads. A map is {rows, columns, values, whole, q, k}: one row stands for q queries, one column for k keys.
  shared.attentionMaps = async (data) => {
    const keys = data.keys ?? data.queries, { blobs } = data.maps;
    const map = (shape, bytes, start, whole) => ({ rows: shape[0], columns: shape[1], whole,
      q: Math.ceil(data.queries.length / shape[0]), k: Math.ceil(keys.length / shape[1]), values: decode(bytes, start, ...shape, data) });
    const small = await shared.inflate(data.thumbnails.blob), size = small.length / data.labels.length;
    const thumbnails = data.labels.map((_, head) => map(data.thumbnails.shape, small, head * size, false));
    const whole = new Map();
    async function mapOf(head) {
      if (!whole.has(head)) whole.set(head, map(data.maps.shape, await shared.inflate(blobs[head]), 0, true));
      return whole.get(head);
    }
    // Sinks can be left out where each is a row or column of its own.
    const canHide = (one) => one.k === 1 && !data.code.signed && one.columns > 2;

    // The map of a head, or its difference from another: whole where both are.
    async function shown({ head, minus, hide }) {
      const pair = minus < 0 ? [head] : [head, minus];
      let found = pair.every((one) => one in blobs) ? await Promise.all(pair.map(mapOf)) : pair.map((one) => thumbnails[one]);
      const sinks = data.sees === "causal" ? [0] : [0, found[0].columns - 1];
      if (hide && canHide(found[0])) found = found.map((one) => without(one, sinks));
      const [one, other] = found, signed = Boolean(other) || data.code.signed;
      const values = other ? one.values.map((value, i) => value - other.values[i]) : one.values;
      const largest = () => values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0) || 1;
      return { ...one, values, signed, top: signed ? largest() : data.code.top };
    }
    return { thumbnails, canHide, shown };
  };
}
