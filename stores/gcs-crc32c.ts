const STRIDE = 8;

/** Eight tables one behind the other: at `256 k + n` is the remainder of byte `n` with `k` zero bytes behind it. */
const TABLE = buildTable();

function buildTable(): Uint32Array {
  const table = new Uint32Array(256 * STRIDE);
  for (let n = 0; n < 256; n++) {
    let rest = n;
    // the polynomial of Castagnoli, reflected
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0x82f63b78 : rest >>> 1;
    table[n] = rest;
  }
  for (let at = 256; at < table.length; at++) {
    const before = entry(table, at - 256);
    table[at] = (before >>> 8) ^ entry(table, before & 0xff);
  }
  return table;
}

function entry(table: Uint32Array, at: number): number {
  return table[at] ?? 0;
}

/**
 * The CRC-32C (Castagnoli) of `bytes`, which Google keeps of every object. Node's own `crc32` is another one.
 *
 * @param before what came of the bytes in front of these
 * @example crc32c(Buffer.from('123456789')) // 0xe3069283
 */
export function crc32c(bytes: Uint8Array, before = 0): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let crc = ~before;
  let at = 0;
  for (const last = bytes.length - STRIDE; at <= last; at += STRIDE) {
    const low = crc ^ view.getInt32(at, true);
    const high = view.getInt32(at + 4, true);
    crc =
      entry(TABLE, 0x700 | (low & 0xff)) ^
      entry(TABLE, 0x600 | ((low >>> 8) & 0xff)) ^
      entry(TABLE, 0x500 | ((low >>> 16) & 0xff)) ^
      entry(TABLE, 0x400 | (low >>> 24)) ^
      entry(TABLE, 0x300 | (high & 0xff)) ^
      entry(TABLE, 0x200 | ((high >>> 8) & 0xff)) ^
      entry(TABLE, 0x100 | ((high >>> 16) & 0xff)) ^
      entry(TABLE, high >>> 24);
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ entry(TABLE, (crc ^ view.getUint8(at)) & 0xff);
  return ~crc >>> 0;
}

/** As Google writes it: the four bytes, the highest first, in base64. */
export function crc32cText(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc);
  return bytes.toString('base64');
}
