import lz4 from 'lz4-napi';
import xxhash from 'xxhash-wasm';
import { BackupError } from '../core/errors.ts';
import { lend, lendWhole, piecesOfSize, release } from './chunks.ts';

/*
 * The LZ4 frame format 1.6 (lz4_Frame_format.md of the LZ4 project): magic, descriptor, blocks of
 * `length | 0x80000000 when stored`, an end mark of four zero bytes, and the checksum of the content.
 */
const FRAME_MAGIC = 0x184d2204;
const SKIPPABLE_MAGIC = 0x184d2a50;
const VERSION = 0x40;
const INDEPENDENT = 0x20;
const BLOCK_CHECKSUM = 0x10;
const CONTENT_SIZE = 0x08;
const CONTENT_CHECKSUM = 0x04;
const RESERVED = 0x02;
const DICTIONARY = 0x01;
const STORED = 0x80000000;
const WINDOW_BYTES = 64 * 1024;
/** What a byte of a compressed block stands for, at most. */
const MOST_OF_A_BYTE = 255;
const BLOCK_BYTES: Record<number, number> = { 4: 64 << 10, 5: 256 << 10, 6: 1 << 20, 7: 4 << 20 };

/** The block size we write: the ratio of larger ones is 0.3 % better, and they need 16 times the memory. */
const OUR_BLOCK_CODE = 5;
const OUR_BLOCK_BYTES = 256 << 10;

let loadedHash: ReturnType<typeof xxhash> | undefined;
const loadHash = async () => {
  const hashes = await (loadedHash ??= xxhash());
  return {
    hash: (bytes: Uint8Array) => hashes.h32Raw(bytes),
    contentHash: () => hashes.create32(0),
  };
};

/**
 * One LZ4 frame of independent blocks of 256 KiB with the checksum of the content.
 *
 * @param contentBytes size of the whole source when it is known; it goes into the frame
 */
export async function* lz4Compress(
  source: AsyncIterable<Uint8Array>,
  contentBytes?: number,
): AsyncGenerator<Uint8Array, void, void> {
  const { hash, contentHash } = await loadHash();
  const content = contentHash();
  yield frameHeader(hash, contentBytes);
  for await (const plain of piecesOfSize(source, OUR_BLOCK_BYTES)) {
    content.update(plain);
    const block = await compressBlock(plain);
    release(plain);
    yield block;
  }
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(content.digest(), 4);
  yield trailer;
}

type Hash32 = (bytes: Uint8Array) => number;

function frameHeader(hash: Hash32, contentBytes: number | undefined): Buffer {
  const sized = contentBytes !== undefined;
  const header = Buffer.alloc(sized ? 15 : 7);
  header.writeUInt32LE(FRAME_MAGIC, 0);
  header[4] = VERSION | INDEPENDENT | CONTENT_CHECKSUM | (sized ? CONTENT_SIZE : 0);
  header[5] = OUR_BLOCK_CODE << 4;
  if (sized) header.writeBigUInt64LE(BigInt(contentBytes), 6);
  header[header.length - 1] = headerChecksum(hash, header.subarray(4, -1));
  return header;
}

const headerChecksum = (hash: Hash32, descriptor: Uint8Array) => (hash(descriptor) >>> 8) & 0xff;

async function compressBlock(plain: Uint8Array): Promise<Buffer> {
  // the package puts the plain size in front (4 bytes, little endian): the very place of the frame's block length
  const block = await lz4.compress(plain);
  const length = block.length - 4;
  if (length < plain.length) {
    block.writeUInt32LE(length, 0);
    return lendWhole(block);
  }
  // it is at least as long: the plain bytes have room in its place
  block.writeUInt32LE((plain.length | STORED) >>> 0, 0);
  block.set(plain, 4);
  const stored = block.subarray(0, 4 + plain.length);
  return block.length === block.buffer.byteLength ? lend(stored) : stored;
}

/**
 * The content of one or more LZ4 frames, whatever their block size, linked or independent, with or without checksums;
 * skippable frames are skipped. Every length and checksum that is there is checked.
 *
 * @param name of the object, for messages
 * @throws BackupError `object-damaged` when the input is empty, ends early, is corrupt or has something else behind it
 */
export async function* lz4Decompress(
  source: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, void> {
  const { hash, contentHash } = await loadHash();
  const input = new ExactReader(source, name);
  for (let frames = 0; frames === 0 || !(await input.atEnd()); frames++) {
    const magic = (await input.read(4, 'magic number')).readUInt32LE();
    if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
      await input.skip((await input.read(4, 'length of a skippable frame')).readUInt32LE());
    } else if (magic === FRAME_MAGIC) {
      yield* frameContent(input, name, contentHash(), hash);
    } else {
      throw damaged(name, frames === 0 ? 'is not an lz4 frame' : 'has other bytes behind its lz4 frame');
    }
  }
}

interface ContentHash {
  update(bytes: Uint8Array): unknown;
  digest(): number;
}

async function* frameContent(
  input: ExactReader,
  name: string,
  content: ContentHash,
  hash: Hash32,
): AsyncGenerator<Uint8Array, void, void> {
  const frame = await readFrameHeader(input, name, hash);
  let window: Buffer = Buffer.alloc(0);
  let contentBytes = 0;
  for (;;) {
    const head = (await input.read(4, 'block length')).readUInt32LE();
    if (head === 0) break;
    const length = head & ~STORED;
    if (length > frame.blockBytes)
      throw damaged(name, `has an lz4 block of ${length} bytes, more than it may have`);
    const body = await input.read(length, 'block');
    if (frame.blockChecksum) {
      const recorded = (await input.read(4, 'block checksum')).readUInt32LE();
      if (recorded !== hash(body)) throw damaged(name, 'has an lz4 block whose checksum is wrong');
    }
    const plain = (head & STORED) === 0 ? decompressBlock(body, frame.blockBytes, window, name) : body;
    if (!frame.independent) window = slideWindow(window, plain);
    else if (plain !== body) lendWhole(plain);
    if (frame.contentChecksum) content.update(plain);
    contentBytes += plain.length;
    yield plain;
  }
  if (frame.contentChecksum) {
    const recorded = (await input.read(4, 'content checksum')).readUInt32LE();
    if (recorded !== content.digest()) throw damaged(name, 'does not have the content its lz4 checksum says');
  }
  if (frame.contentBytes !== undefined && frame.contentBytes !== BigInt(contentBytes)) {
    throw damaged(name, `has ${contentBytes} bytes of content; its lz4 frame says ${frame.contentBytes}`);
  }
}

interface FrameHeader {
  readonly independent: boolean;
  readonly blockChecksum: boolean;
  readonly contentChecksum: boolean;
  readonly contentBytes: bigint | undefined;
  readonly blockBytes: number;
}

async function readFrameHeader(input: ExactReader, name: string, hash: Hash32): Promise<FrameHeader> {
  const [flags = 0, blocks = 0] = await input.read(2, 'frame descriptor');
  const sized = (flags & CONTENT_SIZE) !== 0;
  const size = await input.read(sized ? 8 : 0, 'content size');
  const blockBytes = BLOCK_BYTES[(blocks >> 4) & 0x07];
  if (
    (flags & 0xc0) !== VERSION ||
    (flags & RESERVED) !== 0 ||
    (blocks & 0x8f) !== 0 ||
    blockBytes === undefined
  ) {
    throw damaged(name, 'has an lz4 frame header that no version of the format knows');
  }
  if ((flags & DICTIONARY) !== 0) throw damaged(name, 'needs an lz4 dictionary, which nobody here has');
  const descriptor = Buffer.concat([Uint8Array.of(flags, blocks), size]);
  const [recorded] = await input.read(1, 'header checksum');
  if (recorded !== headerChecksum(hash, descriptor))
    throw damaged(name, 'has an lz4 header whose checksum is wrong');
  return {
    independent: (flags & INDEPENDENT) !== 0,
    blockChecksum: (flags & BLOCK_CHECKSUM) !== 0,
    contentChecksum: (flags & CONTENT_CHECKSUM) !== 0,
    contentBytes: sized ? size.readBigUInt64LE() : undefined,
    blockBytes,
  };
}

function decompressBlock(body: Buffer, blockBytes: number, window: Buffer, name: string): Buffer {
  const sized = Buffer.allocUnsafe(4 + body.length);
  // room that is asked for costs time, also where it stays empty: of thousands of tiny blocks it would be minutes
  sized.writeUInt32LE(Math.min(blockBytes, body.length * MOST_OF_A_BYTE), 0);
  sized.set(body, 4);
  try {
    return window.length === 0 ? lz4.uncompressSync(sized) : lz4.uncompressSync(sized, window);
  } catch (error) {
    throw damaged(name, 'has an lz4 block that does not decompress', error);
  }
}

/** The last 64 KiB before the next block of a frame with linked blocks. */
function slideWindow(window: Buffer, plain: Buffer): Buffer {
  if (plain.length >= WINDOW_BYTES) return plain.subarray(plain.length - WINDOW_BYTES);
  return Buffer.concat([window, plain]).subarray(-WINDOW_BYTES);
}

const damaged = (name: string, what: string, cause?: unknown) =>
  new BackupError('object-damaged', `${name} ${what}`, { cause });

/** Reads exact numbers of bytes from pieces of any size. */
class ExactReader {
  readonly #iterator: AsyncIterator<Uint8Array>;
  readonly #name: string;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(source: AsyncIterable<Uint8Array>, name: string) {
    this.#iterator = source[Symbol.asyncIterator]();
    this.#name = name;
  }

  /** @throws BackupError `object-damaged` when the source ends before `length` bytes, naming `what` was expected */
  async read(length: number, what: string): Promise<Buffer> {
    if (this.#rest.length >= length) return this.#take(length);
    const bytes = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      if (this.#rest.length === 0 && !(await this.#refill())) {
        throw damaged(this.#name, `ends early: an lz4 ${what} was expected`);
      }
      const part = this.#take(Math.min(length - filled, this.#rest.length));
      bytes.set(part, filled);
      filled += part.length;
    }
    return bytes;
  }

  async skip(length: number): Promise<void> {
    for (let left = length; left > 0;)
      left -= (await this.read(Math.min(left, WINDOW_BYTES), 'skipped byte')).length;
  }

  async atEnd(): Promise<boolean> {
    return this.#rest.length === 0 && !(await this.#refill());
  }

  #take(length: number): Buffer {
    const taken = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return Buffer.from(taken.buffer, taken.byteOffset, taken.byteLength);
  }

  async #refill(): Promise<boolean> {
    for (;;) {
      const step = await this.#iterator.next();
      if (step.done === true) return false;
      this.#rest = step.value;
      if (this.#rest.length > 0) return true;
    }
  }
}
