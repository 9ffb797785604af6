import { createHash } from 'node:crypto';

/** Size and SHA-256 (hexadecimal, lower case) of bytes that passed. */
export interface Digest {
  readonly sha256: string;
  readonly sizeBytes: number;
}

/**
 * Hashes and counts what passes through `bytes`. `result()` may be asked once, after the last piece: before that it
 * would be the hash of a part.
 */
export function digesting(source: AsyncIterable<Uint8Array>): {
  readonly bytes: AsyncIterable<Uint8Array>;
  readonly result: () => Digest;
} {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  let ended = false;
  async function* pass() {
    for await (const piece of source) {
      hash.update(piece);
      sizeBytes += piece.length;
      yield piece;
    }
    ended = true;
  }
  return {
    bytes: pass(),
    result() {
      if (!ended) throw new Error('the digest was asked for before the last byte passed');
      return { sha256: hash.digest('hex'), sizeBytes };
    },
  };
}

/** SHA-256 of `bytes`, hexadecimal, lower case. */
export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
