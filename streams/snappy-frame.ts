import { BackupError } from '../core/errors.ts';
import { decodedNatively, nativeLibrary, throughNative } from './native-stream.ts';

/*
 * The framing format of snappy (framing_format.txt of the snappy project), as barman-cloud writes it: the identifier,
 * then blocks of 64 KiB of content, each with its CRC-32C, stored as they are where compression gains nothing. It has
 * no mark at its end: what is cut between two blocks looks whole to every reader of it.
 */
const IDENTIFIER = Buffer.from([0xff, 0x06, 0x00, 0x00, ...Buffer.from('sNaPpY')]);
/** A stored block of no bytes, with the checksum of none. */
const EMPTY_BLOCK = Buffer.from([0x01, 0x04, 0x00, 0x00, 0xd8, 0xea, 0x82, 0xa2]);

/** One snappy stream. That of nothing has one empty block, so that none is cut down to it. */
export async function* snappyCompress(
  source: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, void> {
  const snappy = await library();
  let isEmpty = true;
  for await (const piece of throughNative(snappy.compressStream, source)) {
    isEmpty = false;
    yield piece;
  }
  if (isEmpty) yield Buffer.concat([IDENTIFIER, EMPTY_BLOCK]);
}

/**
 * The content of one or more snappy streams after each other, block by block, each after its checksum was checked. A
 * stream that is cut exactly between two blocks can't be told from a whole one: whoever reads it must know a size, a
 * digest, or an end that the content itself has.
 *
 * @param name of the object, for messages
 * @throws BackupError `object-damaged` when the input is empty, has no block, ends inside of one, is corrupt or has
 *   something else behind it
 */
export async function* snappyDecompress(
  source: AsyncIterator<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, void> {
  const snappy = await library();
  let storedBytes = 0;
  const counted = {
    async next() {
      const step = await source.next();
      if (step.done !== true) storedBytes += step.value.length;
      return step;
    },
  };
  yield* decodedNatively(snappy.uncompressStream, counted, { name, codec: 'snappy' });
  if (storedBytes > IDENTIFIER.length) return;
  throw new BackupError('object-damaged', `${name} ends early: a snappy block was expected`);
}

/** Loaded when it is needed: whoever has no snappy object does not depend on it. */
async function library() {
  return (await nativeLibrary('snappy', () => import('snappy'))).default;
}
