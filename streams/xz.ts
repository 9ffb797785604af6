import { BackupError } from '../core/errors.ts';
import { decodedNatively, nativeLibrary, throughNative } from './native-stream.ts';

/** What every xz stream ends in. */
const END = Buffer.from('YZ');

/**
 * One xz stream of one block, with a CRC-64 of the content.
 *
 * @param preset 0–9: how hard it tries, and up to 64 MiB of window for both sides
 */
export async function* xzCompress(
  source: AsyncIterator<Uint8Array>,
  preset: number,
): AsyncGenerator<Uint8Array, void, void> {
  const xz = await library();
  yield* throughNative((input) => xz.compressStream(input, { preset }), source);
}

/** Loaded when it is needed: whoever has no xz object does not depend on it. */
async function library() {
  return (await nativeLibrary('xz', () => import('@napi-rs/lzma'))).xz;
}

/**
 * The content of one or more xz streams after each other. All checksums and sizes are checked.
 *
 * The window that a stream asks for is touched only as far as there is content for it: who sets a limit for the
 * content has set one for the memory.
 *
 * @param name of the object, for messages
 * @throws BackupError `object-damaged` when the input is empty, ends early, is corrupt or has something else behind it
 */
export async function* xzDecompress(
  source: AsyncIterator<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, void> {
  const xz = await library();
  yield* decodedNatively(xz.decompressStream, endingAsXz(source, name), { name, codec: 'xz' });
}

/** Zero bytes behind the end are allowed by the format, but nobody who archives WAL writes them. */
async function* endingAsXz(
  source: AsyncIterator<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, void> {
  let end: Uint8Array = new Uint8Array(0);
  for (let step = await source.next(); step.done !== true; step = await source.next()) {
    const piece = step.value;
    end =
      piece.length >= END.length
        ? piece.slice(-END.length)
        : Buffer.concat([end, piece]).subarray(-END.length);
    yield piece;
  }
  if (end.length === 0 || END.equals(end)) return;
  throw new BackupError(
    'object-damaged',
    `${name} does not end as an xz stream does: it is cut, or something follows`,
  );
}
