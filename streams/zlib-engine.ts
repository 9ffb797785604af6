import type { Transform } from 'node:stream';
import { lendWhole } from './chunks.ts';

/** A compressor or decompressor of `node:zlib`. `bytesWritten` counts the input it has consumed. */
export type ZlibEngine = Transform & { readonly bytesWritten: number };

/** Pieces of a source, one after the other; what was not used can be put back. */
export interface Feed {
  next(): Promise<Uint8Array | undefined>;
  putBack(rest: Uint8Array): void;
}

/** A feed over `iterator`, which stays the caller's to close. Empty pieces are left out. */
export function createFeed(iterator: AsyncIterator<Uint8Array>): Feed {
  let waiting: Uint8Array | undefined;
  return {
    async next() {
      const put = waiting;
      waiting = undefined;
      if (put !== undefined) return put;
      for (;;) {
        const step = await iterator.next();
        if (step.done === true) return undefined;
        if (step.value.length > 0) return step.value;
      }
    },
    putBack(rest) {
      if (rest.length > 0) waiting = rest;
    },
  };
}

/**
 * What `engine` makes of the pieces of `feed`. It is asked for more only as fast as its output is taken. An engine may
 * end before its input does (one zstd frame of several): what it has not consumed goes back into the feed.
 */
export async function* throughEngine(engine: ZlibEngine, feed: Feed): AsyncGenerator<Uint8Array, void, void> {
  const feeding = feedEngine(engine, feed);
  engine.on('error', () => undefined);
  // a failure of the source reaches the reader through the engine
  feeding.catch((error: unknown) =>
    engine.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  try {
    for await (const piece of engine as AsyncIterable<Buffer>) yield lendWhole(piece);
    await feeding;
  } finally {
    engine.destroy();
  }
}

async function feedEngine(engine: ZlibEngine, feed: Feed): Promise<void> {
  // the callback of a write that is under way does not come when the engine fails or is destroyed
  let wake: (() => void) | undefined;
  engine.once('close', () => wake?.());
  while (!engine.destroyed) {
    const piece = await feed.next();
    if (engine.destroyed) return;
    if (piece === undefined) {
      engine.end();
      return;
    }
    const before = engine.bytesWritten;
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (engine.destroyed) resolve();
      else engine.write(piece, () => resolve());
    });
    const consumed = engine.bytesWritten - before;
    if (consumed < piece.length) {
      // the engine has ended (or failed), although its reader may not have seen that yet: it must get no more
      feed.putBack(piece.subarray(consumed));
      return;
    }
  }
}
