import { release } from '../streams/chunks.ts';

/** The chunks of a body, in buffers that are used again. */
export interface Chunks extends AsyncIterableIterator<Uint8Array, void, void> {
  return(): Promise<IteratorResult<Uint8Array, void>>;
  /** Gives a chunk back that nobody looks at any more: a later one is put into its place. */
  release(chunk: Uint8Array): void;
}

/**
 * The bytes of `source` in chunks of exactly `sizeBytes`; only the last may be shorter, and none is empty. As many
 * buffers are made as are held at a time. Fresh ones for every chunk would wait for the collector, which lets three
 * times as much pile up.
 */
export function chunksOf(source: AsyncIterable<Uint8Array>, sizeBytes: number): Chunks {
  const free: Buffer[] = [];
  const owned = new Map<ArrayBufferLike, Buffer>();

  function take(): Buffer {
    const known = free.pop();
    if (known) return known;
    const made = Buffer.allocUnsafeSlow(sizeBytes);
    owned.set(made.buffer, made);
    return made;
  }

  async function* fill(): AsyncGenerator<Uint8Array, void, void> {
    let chunk: Buffer | undefined;
    let filled = 0;
    for await (const piece of source) {
      for (let at = 0; at < piece.length;) {
        chunk ??= take();
        const taken = Math.min(piece.length - at, sizeBytes - filled);
        chunk.set(piece.subarray(at, at + taken), filled);
        at += taken;
        filled += taken;
        if (filled < sizeBytes) continue;
        yield chunk;
        chunk = undefined;
        filled = 0;
      }
      release(piece);
    }
    if (chunk && filled > 0) yield chunk.subarray(0, filled);
  }

  const filling = fill();
  return {
    next: () => filling.next(),
    return: () => filling.return(),
    release(chunk) {
      const whole = owned.get(chunk.buffer);
      if (whole) free.push(whole);
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
