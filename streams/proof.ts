import { createHash, type Hash } from 'node:crypto';
import { BackupError } from '../core/errors.ts';
import { hold, release, released } from './chunks.ts';
import { compress as ourCompress, decompress, type Codec } from './codec.ts';

/** What compresses: `compress`, or one that a test damages on purpose. */
export type Compress = typeof ourCompress;

export interface ProofOptions {
  readonly signal: AbortSignal;
  /** Of the object, for messages. */
  readonly name: string;
  readonly compress?: Compress;
}

/**
 * As `compress`, and proved: every piece that comes out is given to a decoder first, and what that makes of them is
 * compared with the plain bytes, so that the end comes without an error only when all that was given away decodes to
 * exactly what went in (E1). Compared is with the pieces themselves, which their source never uses again: a second
 * SHA-256 would cost a multiple of that. Pieces that were lent are held until both, codec and decoder, have done with them.
 *
 * In constant memory: of the pieces that the decoder has not reached yet 8 MiB are kept, and of further ones (a codec may
 * hold back many, when they are alike) only their hash. The reader is waited for, and so is the decoder.
 *
 * @throws BackupError `object-damaged`, naming the object and the place, when they differ or the decoder refuses; all
 *   that `compress` throws
 */
export async function* compressProved(
  codec: Codec,
  source: AsyncIterable<Uint8Array>,
  { signal, name, compress = ourCompress }: ProofOptions,
): AsyncGenerator<Uint8Array, void, void> {
  const plain = new AwaitedPieces();
  const packed = compress(codec, plain.of(source), { signal });
  const hand = new Handover();
  const decoded = decompress(codec, hand, { signal, name });
  // of `none` they are the very pieces that went in
  const proof = prove(codec === 'none' ? decoded : released(decoded), plain, name);
  // The failure has to reach whoever gives the next piece; the promise itself is awaited at the end.
  proof.catch((error: unknown) => hand.fail(error));
  try {
    for await (const piece of packed) {
      await hand.give(piece);
      yield piece;
    }
    hand.end();
    await proof;
  } finally {
    // Given up: the decoder finds its input cut, and stops.
    hand.end();
    await proof.catch(() => undefined);
  }
}

async function prove(decoded: AsyncIterable<Uint8Array>, plain: AwaitedPieces, name: string): Promise<void> {
  let sizeBytes = 0;
  const damaged = (what: string) =>
    new BackupError('object-damaged', `${name} does not decompress to what was compressed: ${what}`, {
      hint: 'it was seen before it counted, and nothing of it is kept; when it happens again, suspect the memory of this host',
    });
  for await (const piece of decoded) {
    if (!plain.take(piece)) throw damaged(`it differs behind byte ${sizeBytes}`);
    sizeBytes += piece.length;
  }
  if (plain.sizeBytes !== sizeBytes) {
    throw damaged(`it has ${sizeBytes} bytes, ${plain.sizeBytes} went in`);
  }
}

/** Pieces are kept up to this; of what comes on top, the hash. */
const KEPT_BYTES = 8 << 20;

/** A piece that the decoder has not reached yet. */
interface Awaited {
  readonly sizeBytes: number;
  readonly bytes?: Uint8Array;
  readonly sha256?: Buffer;
}

/** The plain pieces on their way through a codec, in order. */
class AwaitedPieces {
  /** Of all that came. */
  sizeBytes = 0;
  readonly #pieces: Awaited[] = [];
  #keptBytes = 0;
  /** How much of the first was seen, and its hash when that is all there is of it. */
  #seenBytes = 0;
  #seen: Hash | undefined;

  /** `source`, each piece remembered before it is passed on. */
  async *of(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
    for await (const piece of source) {
      if (piece.length > 0) this.#await(piece);
      yield piece;
    }
  }

  #await(bytes: Uint8Array): void {
    const sizeBytes = bytes.length;
    this.sizeBytes += sizeBytes;
    if (this.#keptBytes + sizeBytes > KEPT_BYTES) {
      this.#pieces.push({ sizeBytes, sha256: hashOf(bytes).digest() });
      return;
    }
    this.#keptBytes += sizeBytes;
    hold(bytes);
    this.#pieces.push({ sizeBytes, bytes });
  }

  /** Takes from the front what `decoded` is long. @returns whether it is the same, as far as that can be said yet */
  take(decoded: Uint8Array): boolean {
    for (let rest = decoded; rest.length > 0;) {
      const first = this.#pieces[0];
      if (first === undefined) return false;
      const part = rest.subarray(0, first.sizeBytes - this.#seenBytes);
      rest = rest.subarray(part.length);
      if (!this.#see(first, part)) return false;
    }
    return true;
  }

  #see(first: Awaited, part: Uint8Array): boolean {
    const end = this.#seenBytes + part.length;
    if (first.bytes === undefined) (this.#seen ??= createHash('sha256')).update(part);
    else if (Buffer.compare(part, first.bytes.subarray(this.#seenBytes, end)) !== 0) return false;
    this.#seenBytes = end;
    if (end < first.sizeBytes) return true;
    this.#pieces.shift();
    this.#seenBytes = 0;
    if (first.bytes !== undefined) {
      this.#keptBytes -= first.sizeBytes;
      // all of it came out again: the codec has done with it, too
      release(first.bytes);
    }
    const seen = this.#seen?.digest();
    this.#seen = undefined;
    return first.sha256 === undefined || (seen !== undefined && seen.equals(first.sha256));
  }
}

const hashOf = (bytes: Uint8Array): Hash => createHash('sha256').update(bytes);

/** From a giver to one taker, piece by piece: the giver waits until the piece is taken, which holds it until it asks again. */
class Handover implements AsyncIterableIterator<Uint8Array, undefined, void> {
  #piece: Uint8Array | undefined;
  #taken: Uint8Array | undefined;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  /** Whoever waits, on either side. */
  #wake: (() => void) | undefined;

  async give(piece: Uint8Array): Promise<void> {
    hold(piece);
    this.#piece = piece;
    this.#wakeOther();
    while (this.#piece !== undefined && !this.#failure) await this.#woken();
    if (this.#failure) throw this.#failure.error;
  }

  end(): void {
    this.#ended = true;
    this.#wakeOther();
  }

  fail(error: unknown): void {
    this.#failure = { error };
    this.#wakeOther();
  }

  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (this.#taken !== undefined) release(this.#taken);
    this.#taken = undefined;
    while (this.#piece === undefined && !this.#ended) await this.#woken();
    const value = this.#piece;
    this.#taken = value;
    this.#piece = undefined;
    this.#wakeOther();
    return value === undefined ? { done: true, value } : { done: false, value };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #wakeOther(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
