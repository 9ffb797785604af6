/** The lengths of codes that `write` may give out: 17 bits are what every decoder was ever tried with. */
const LONGEST_CODE = 17;

/**
 * How many bits each symbol gets so that the whole is short: a Huffman code, of at most 17 bits. Symbols that do not
 * occur get a code too, as the format wants it.
 */
export function codeLengths(frequencies: Int32Array, symbols: number): Uint8Array {
  const lengths = new Uint8Array(symbols);
  const weights = new Float64Array(symbols);
  for (let symbol = 0; symbol < symbols; symbol++)
    weights[symbol] = Math.max(1, frequencies[symbol] as number);
  for (;;) {
    if (huffmanDepths(weights, symbols, lengths) <= LONGEST_CODE) return lengths;
    // flatter weights make a flatter tree
    for (let symbol = 0; symbol < symbols; symbol++) {
      weights[symbol] = 1 + Math.floor((weights[symbol] as number) / 2);
    }
  }
}

/** Two queues, both in order: the leaves, and the nodes as they are made. @returns the greatest depth */
function huffmanDepths(weights: Float64Array, symbols: number, depths: Uint8Array): number {
  const leaves = Array.from({ length: symbols }, (_, symbol) => symbol).toSorted(
    (a, b) => (weights[a] as number) - (weights[b] as number),
  );
  const nodes = symbols - 1;
  const nodeWeight = new Float64Array(nodes);
  const leafParent = new Int32Array(symbols);
  const nodeParent = new Int32Array(nodes);
  let leaf = 0;
  let node = 0;
  for (let made = 0; made < nodes; made++) {
    let weight = 0;
    for (let child = 0; child < 2; child++) {
      const isLeaf =
        node >= made ||
        (leaf < symbols && (weights[leaves[leaf] as number] as number) <= (nodeWeight[node] as number));
      if (isLeaf) {
        const symbol = leaves[leaf++] as number;
        leafParent[symbol] = made;
        weight += weights[symbol] as number;
      } else {
        nodeParent[node] = made;
        weight += nodeWeight[node++] as number;
      }
    }
    nodeWeight[made] = weight;
  }
  const nodeDepth = new Int32Array(nodes);
  for (let at = nodes - 2; at >= 0; at--) {
    nodeDepth[at] = (nodeDepth[nodeParent[at] as number] as number) + 1;
  }
  let deepest = 0;
  for (let symbol = 0; symbol < symbols; symbol++) {
    const depth = (nodeDepth[leafParent[symbol] as number] as number) + 1;
    depths[symbol] = depth;
    deepest = Math.max(deepest, depth);
  }
  return deepest;
}

/** The codes that belong to lengths: of one length in the order of their symbols, shorter ones before longer ones. */
export function codesOf(lengths: Uint8Array): Int32Array {
  const codes = new Int32Array(lengths.length);
  let code = 0;
  for (let bits = 1; bits <= LONGEST_CODE; bits++) {
    for (let symbol = 0; symbol < lengths.length; symbol++)
      if (lengths[symbol] === bits) codes[symbol] = code++;
    code <<= 1;
  }
  return codes;
}
