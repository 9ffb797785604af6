import { BackupError } from '../core/errors.ts';
import { abortable } from '../streams/abortable.ts';
import { piecesOf } from '../streams/chunks.ts';
import { NO_METADATA, type Metadata } from './metadata.ts';
import type { ObjectBody } from './object-store.ts';

/**
 * The body of a put as pieces, given up at once when `signal` aborts, and held to `sizeBytes` when that is known: a
 * body with more bytes fails as soon as they come, one with fewer at its end.
 *
 * @throws BackupError `object-damaged` when the size is another; the signal's reason
 */
export async function* checkedBody(
  key: string,
  body: Uint8Array | AsyncIterable<Uint8Array>,
  options: { readonly signal: AbortSignal; readonly sizeBytes?: number },
): AsyncGenerator<Uint8Array, void, void> {
  const expected = options.sizeBytes;
  let came = 0;
  const pieces = body instanceof Uint8Array ? piecesOf(body) : body;
  for await (const piece of abortable(pieces, options.signal)) {
    came += piece.length;
    if (expected !== undefined && came > expected) throw wrongSize(key, expected, `at least ${came}`);
    if (piece.length > 0) yield piece;
  }
  checkSize(key, came, expected);
}

/** @throws BackupError `object-damaged` when a body of `came` bytes is not the one that was announced */
export function checkSize(key: string, came: number, expected: number | undefined): void {
  if (expected !== undefined && came !== expected) throw wrongSize(key, expected, `${came}`);
}

const wrongSize = (key: string, expected: number, came: string) =>
  new BackupError('object-damaged', `${key} was to be stored with ${expected} bytes, but ${came} came`, {
    hint: 'nothing was stored; what was read for it changed meanwhile',
  });

/** The body of an object, with the metadata that came with it or how to ask for it. */
export function objectBody(
  pieces: AsyncIterable<Uint8Array>,
  metadata: Metadata | (() => Promise<Metadata>) = NO_METADATA,
): ObjectBody {
  return {
    [Symbol.asyncIterator]: () => pieces[Symbol.asyncIterator](),
    metadata: typeof metadata === 'function' ? metadata : async () => metadata,
  };
}
