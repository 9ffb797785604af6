/** Whole numbers by index: the bytes of a block, or the names of its pieces one level further down. */
type Text = Uint8Array | Int32Array;

const NOTHING = -1;

/**
 * The starts of all suffixes of `text[0..length)` in their order, the end of the text being smaller than any letter.
 * Linear in time whatever the text: a block that repeats itself costs no more than noise does. (Induced sorting:
 * Nong, Zhang and Chan, "Two efficient algorithms for linear time suffix array construction", 2009.)
 *
 * @param letters upper bound of the values, exclusive
 */
export function suffixArray(text: Text, length: number, letters: number): Int32Array {
  const order = new Int32Array(length);
  if (length < 2) return order;
  const rising = risingSuffixes(text, length);
  const cuts = cutsOf(rising, length);
  const starts = bucketStarts(text, length, letters);

  order.fill(NOTHING);
  placeAtEnds(order, text, cuts, starts);
  induce(order, text, length, rising, starts);
  if (cuts.length > 1) {
    const sorted = sortCuts(order, text, length, rising, cuts);
    order.fill(NOTHING);
    placeAtEnds(order, text, sorted, starts);
    induce(order, text, length, rising, starts);
  }
  return order;
}

/** 1 for each suffix that is smaller than the one behind it. */
function risingSuffixes(text: Text, length: number): Uint8Array {
  const rising = new Uint8Array(length);
  let isRising = 0;
  let next = text[length - 1] as number;
  for (let at = length - 2; at >= 0; at--) {
    const letter = text[at] as number;
    if (letter !== next) isRising = letter < next ? 1 : 0;
    rising[at] = isRising;
    next = letter;
  }
  return rising;
}

/** Where a rising suffix follows one that is not: these places cut the text in pieces. */
function cutsOf(rising: Uint8Array, length: number): Int32Array {
  const cuts = new Int32Array(length >> 1);
  let count = 0;
  for (let at = 1; at < length; at++) {
    if (rising[at] === 1 && rising[at - 1] === 0) cuts[count++] = at;
  }
  return cuts.subarray(0, count);
}

/** Where the suffixes that begin with each letter begin in the order; one more entry than letters. */
function bucketStarts(text: Text, length: number, letters: number): Int32Array {
  const starts = new Int32Array(letters + 1);
  for (let at = 0; at < length; at++) {
    const slot = (text[at] as number) + 1;
    starts[slot] = (starts[slot] as number) + 1;
  }
  for (let letter = 1; letter <= letters; letter++) {
    starts[letter] = (starts[letter] as number) + (starts[letter - 1] as number);
  }
  return starts;
}

/** Puts suffixes at the ends of the buckets of their first letters, the last one given at the very end. */
function placeAtEnds(order: Int32Array, text: Text, suffixes: Int32Array, starts: Int32Array): void {
  const ends = starts.slice(1);
  for (let at = suffixes.length - 1; at >= 0; at--) {
    const suffix = suffixes[at] as number;
    const letter = text[suffix] as number;
    const slot = (ends[letter] as number) - 1;
    ends[letter] = slot;
    order[slot] = suffix;
  }
}

/** From the order of the cuts follows that of all falling suffixes, and from that the order of the rising ones. */
function induce(order: Int32Array, text: Text, length: number, rising: Uint8Array, starts: Int32Array): void {
  const heads = starts.slice();
  const last = text[length - 1] as number;
  const first = heads[last] as number;
  heads[last] = first + 1;
  order[first] = length - 1;
  for (let at = 0; at < length; at++) {
    const before = (order[at] as number) - 1;
    if (before < 0 || rising[before] === 1) continue;
    const letter = text[before] as number;
    const slot = heads[letter] as number;
    heads[letter] = slot + 1;
    order[slot] = before;
  }
  // the cuts that are still there are overwritten, each before it is read again
  const ends = starts.slice(1);
  for (let at = length - 1; at >= 0; at--) {
    const before = (order[at] as number) - 1;
    if (before < 0 || rising[before] === 0) continue;
    const letter = text[before] as number;
    const slot = (ends[letter] as number) - 1;
    ends[letter] = slot;
    order[slot] = before;
  }
}

/** The cuts in the order of their suffixes; `order` has them in the order of their pieces, and is used up. */
function sortCuts(
  order: Int32Array,
  text: Text,
  length: number,
  rising: Uint8Array,
  cuts: Int32Array,
): Int32Array {
  const count = cuts.length;
  const lengths = new Int32Array(length + 1);
  for (let at = 0; at < count; at++) {
    const cut = cuts[at] as number;
    // up to the next cut and with it; the last piece ends with the text
    lengths[cut] = at + 1 < count ? (cuts[at + 1] as number) - cut + 1 : length - cut + 1;
  }
  const names = new Int32Array(length);
  let name = -1;
  let previous = -1;
  for (let at = 0; at < length; at++) {
    const cut = order[at] as number;
    if (cut < 1 || lengths[cut] === 0) continue;
    if (previous < 0 || !isSamePiece(text, length, lengths, previous, cut)) name += 1;
    names[cut] = name;
    previous = cut;
  }
  const sorted = new Int32Array(count);
  if (name + 1 === count) {
    for (let at = 0; at < count; at++) sorted[names[cuts[at] as number] as number] = cuts[at] as number;
    return sorted;
  }
  const shorter = new Int32Array(count);
  for (let at = 0; at < count; at++) shorter[at] = names[cuts[at] as number] as number;
  const inner = suffixArray(shorter, count, name + 1);
  for (let at = 0; at < count; at++) sorted[at] = cuts[inner[at] as number] as number;
  return sorted;
}

function isSamePiece(text: Text, length: number, lengths: Int32Array, a: number, b: number): boolean {
  const size = lengths[a] as number;
  // a piece that ends with the text is like no other
  if (size !== lengths[b] || a + size > length || b + size > length) return false;
  for (let at = 0; at < size; at++) if (text[a + at] !== text[b + at]) return false;
  return true;
}
