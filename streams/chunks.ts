import { BackupError } from '../core/errors.ts';

/** An async source of the given pieces. */
export async function* piecesOf(...pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void, void> {
  yield* pieces;
}

/** Who still reads a piece, and how long it is: a view of a part of it says nothing about the whole. */
interface Lent {
  readonly sizeBytes: number;
  holders: number;
}

/** By memory. What is not here is left to the collector. */
const lent = new WeakMap<ArrayBufferLike, Lent>();

/**
 * Lends a piece, from the beginning of memory that is only its own, to one holder: whoever gets it may give its memory back
 * by `release`. The collector sees only small objects, and lets hundreds of megabytes of such pieces lie.
 */
export function lend<Piece extends Uint8Array>(piece: Piece): Piece {
  lent.set(piece.buffer, { sizeBytes: piece.length, holders: 1 });
  return piece;
}

/** As `lend`, where the piece fills the whole of its memory; another one is left alone. */
export function lendWhole<Piece extends Uint8Array>(piece: Piece): Piece {
  return piece.length === piece.buffer.byteLength ? lend(piece) : piece;
}

/** Another one who has to release the piece before its memory is given back. */
export function hold(piece: Uint8Array): void {
  const known = lent.get(piece.buffer);
  if (known?.sizeBytes === piece.length) known.holders += 1;
}

/**
 * Says that this holder has done with a piece. After the last one its memory is given back at once, and the piece is
 * empty. Pieces that were not lent, and views of a part of one, are left alone.
 */
export function release(piece: Uint8Array): void {
  const { buffer } = piece;
  const known = lent.get(buffer);
  if (known === undefined || known.sizeBytes !== piece.length) return;
  known.holders -= 1;
  if (known.holders > 0) return;
  lent.delete(buffer);
  // ECMAScript 2024: what the types of 2023 do not know.
  (buffer as ArrayBuffer & { transfer(sizeBytes: number): ArrayBuffer }).transfer(0);
}

/** The same pieces, for a reader that has done with one when it asks for the next: each is released then. */
export async function* released(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
  for await (const piece of source) {
    yield piece;
    release(piece);
  }
}

/**
 * The same bytes in pieces of exactly `sizeBytes`; only the last may be shorter, and none is empty. Every piece is a
 * buffer of its own, lent to who gets it, or a view of one that was handed over. Pieces that were copied are released.
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
    let isViewed = false;
    while (rest.length > 0) {
      // a whole piece inside what came needs no copy
      if (filled === 0 && rest.length >= size) {
        isViewed = true;
        const view = rest.subarray(0, size);
        // before the view is given away: with it, its reader may give the memory back
        rest = rest.subarray(size);
        size = nextSize();
        yield view;
        continue;
      }
      gathered ??= Buffer.allocUnsafeSlow(size);
      const taken = Math.min(rest.length, size - filled);
      gathered.set(rest.subarray(0, taken), filled);
      filled += taken;
      rest = rest.subarray(taken);
      if (filled === size) {
        const whole = lend(gathered);
        gathered = undefined;
        filled = 0;
        size = nextSize();
        yield whole;
      }
    }
    if (!isViewed) release(piece);
  }
  if (gathered !== undefined && filled > 0) yield lend(gathered.subarray(0, filled));
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
    const whole = Buffer.concat(held, heldBytes);
    held.forEach(release);
    held = [];
    heldBytes = 0;
    yield whole;
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
