import { BackupError } from '../core/errors.ts';

/** An async source of the given pieces. */
export async function* piecesOf(...pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void, void> {
  yield* pieces;
}

/** What was allocated here, and is nobody else's. */
const gatheredHere = new WeakSet<Uint8Array>();

/**
 * Gives the memory of a piece that `piecesOfSize` gathered back at once: the collector sees only a small object, and lets
 * hundreds of megabytes of such pieces lie. Others are left alone. Afterwards the piece is empty: nobody may be reading it.
 */
export function release(piece: Uint8Array): void {
  if (!gatheredHere.delete(piece)) return;
  // ECMAScript 2024: what the types of 2023 do not know.
  (piece.buffer as ArrayBuffer & { transfer(sizeBytes: number): ArrayBuffer }).transfer(0);
}

/**
 * The same bytes in pieces of exactly `sizeBytes`; only the last may be shorter, and none is empty. Every piece is a
 * buffer of its own or a view of one that was handed over: nothing is reused.
 */
export async function* piecesOfSize(
  source: AsyncIterable<Uint8Array>,
  sizeBytes: number | (() => number),
): AsyncGenerator<Uint8Array, void, void> {
  const nextSize = typeof sizeBytes === 'number' ? () => sizeBytes : sizeBytes;
  let size = nextSize();
  let gathered: Buffer | undefined;
  let filled = 0;
  for await (const piece of source) {
    let rest = piece;
    while (rest.length > 0) {
      // a whole piece inside what came needs no copy
      if (filled === 0 && rest.length >= size) {
        yield rest.subarray(0, size);
        rest = rest.subarray(size);
        size = nextSize();
        continue;
      }
      gathered ??= Buffer.allocUnsafeSlow(size);
      const taken = Math.min(rest.length, size - filled);
      gathered.set(rest.subarray(0, taken), filled);
      filled += taken;
      rest = rest.subarray(taken);
      if (filled === size) {
        gatheredHere.add(gathered);
        yield gathered;
        gathered = undefined;
        filled = 0;
        size = nextSize();
      }
    }
  }
  if (gathered !== undefined && filled > 0) yield gathered.subarray(0, filled);
}

/**
 * The same bytes in pieces that are worth a call: short ones (tar headers, small files) are joined up to `atLeast`
 * bytes, long ones pass untouched.
 */
export async function* joinedPieces(
  source: AsyncIterable<Uint8Array>,
  atLeast: number,
): AsyncGenerator<Uint8Array, void, void> {
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  for await (const piece of source) {
    if (piece.length === 0) continue;
    if (heldBytes === 0 && piece.length >= atLeast) {
      yield piece;
      continue;
    }
    held.push(piece);
    heldBytes += piece.length;
    if (heldBytes < atLeast) continue;
    yield Buffer.concat(held, heldBytes);
    held = [];
    heldBytes = 0;
  }
  if (heldBytes > 0) yield Buffer.concat(held, heldBytes);
}

/**
 * All bytes of `source` in one buffer.
 *
 * @param maxBytes refused beyond this, so that a lying store or a compression bomb can't fill the memory
 * @param name of the object, for the message
 * @throws BackupError `object-damaged` when there are more
 */
export async function collectBytes(
  source: AsyncIterable<Uint8Array>,
  maxBytes: number,
  name = 'the object',
): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of source) {
    sizeBytes += piece.length;
    if (sizeBytes > maxBytes) {
      throw new BackupError('object-damaged', `${name} holds more than the ${maxBytes} bytes it may have`);
    }
    // a short view keeps the whole of its buffer in memory, and a hostile object may consist of short ones
    pieces.push(piece.buffer.byteLength > 2 * piece.length ? Uint8Array.from(piece) : piece);
  }
  return Buffer.concat(pieces, sizeBytes);
}
