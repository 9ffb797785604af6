import { constants, createGunzip, createGzip, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { BackupError, messageOf } from '../core/errors.ts';
import { abortable, type Closable } from './abortable.ts';
import { bzip2Compress } from './bzip2/compress.ts';
import { bzip2Decompress } from './bzip2/decompress.ts';
import { collectBytes, joinedPieces, piecesOf, piecesOfSize, released } from './chunks.ts';
import { lz4Compress, lz4Decompress } from './lz4-frame.ts';
import { snappyCompress, snappyDecompress } from './snappy-frame.ts';
import { xzCompress, xzDecompress } from './xz.ts';
import { createFeed, throughEngine } from './zlib-engine.ts';
import type { ZlibEngine } from './zlib-engine.ts';

/** What the name of a compressed object ends in. barman-cloud finds a codec by these names alone. */
export const CODEC_SUFFIX = {
  none: '',
  gzip: '.gz',
  lz4: '.lz4',
  zstd: '.zst',
  bzip2: '.bz2',
  snappy: '.snappy',
  xz: '.xz',
} as const;

/** How an object is compressed; always one stream of it: a gzip member, a frame of zstd or lz4, a stream of the rest. */
export type Codec = keyof typeof CODEC_SUFFIX;

/** All of them, `none` first. */
export const CODECS = Object.keys(CODEC_SUFFIX) as readonly Codec[];

export interface CompressOptions {
  readonly signal: AbortSignal;
  /** gzip 1–9 (default 6), zstd 1–19 (default 3), bzip2 1–9 (default 9), xz 0–9 (default 3); lz4 and snappy have one level. */
  readonly level?: number;
}

export interface DecompressOptions {
  readonly signal: AbortSignal;
  /** Name of the object, for messages. */
  readonly name?: string;
}

/** The codec that a key's suffix names, and the key without it: `x.gz` is gzip and `x`, `x` is none and `x`. */
export function codecOfSuffix(key: string): { codec: Codec; bare: string } {
  for (const codec of CODECS) {
    const suffix = CODEC_SUFFIX[codec];
    if (suffix !== '' && key.endsWith(suffix)) return { codec, bare: key.slice(0, -suffix.length) };
  }
  return { codec: 'none', bare: key };
}

/**
 * Compresses `source` into one stream, in constant memory and only as fast as it is read. The pieces that the source
 * yields belong to the codec from then on: a source must not fill a buffer again that it has handed over.
 *
 * @throws the signal's reason at once when it aborts; what the source throws
 */
export async function* compress(
  codec: Codec,
  source: AsyncIterable<Uint8Array>,
  options: CompressOptions,
): AsyncGenerator<Uint8Array, void, void> {
  const bytes = abortable(source, options.signal);
  try {
    yield* compressed(codec, bytes, options.level);
  } finally {
    await bytes.return();
  }
}

/**
 * The plain bytes of one or more compressed streams after each other, in constant memory and only as fast as they are
 * read. The iteration ends without an error only after the end of the stream was seen, its checksum (where it has one)
 * fits, and nothing else follows.
 *
 * @throws BackupError `object-damaged` when the input is empty, ends early, is corrupt or has other bytes behind it;
 *   the signal's reason at once when it aborts; what the source throws
 */
export async function* decompress(
  codec: Codec,
  source: AsyncIterable<Uint8Array>,
  options: DecompressOptions,
): AsyncGenerator<Uint8Array, void, void> {
  const bytes = abortable(source, options.signal);
  const name = options.name ?? `the ${codec} object`;
  try {
    for await (const piece of decompressed(codec, bytes, name)) {
      // a small input may have a long output: the source alone would notice an abort late
      options.signal.throwIfAborted();
      yield piece;
    }
  } finally {
    await bytes.return();
  }
}

/** Compresses bytes that are in memory. An lz4 frame made here says the size of its content, as barman's do. */
export function compressBytes(codec: Codec, bytes: Uint8Array, level?: number): Promise<Uint8Array> {
  const source = piecesOf(bytes);
  const packed =
    codec === 'lz4' ? lz4Compress(source, bytes.length) : compress(codec, source, withLevel(level));
  return collectBytes(packed, Number.POSITIVE_INFINITY);
}

/**
 * Decompresses bytes that are in memory.
 *
 * @param maxBytes plain size that is refused to be exceeded, however small the input is
 * @param name of the object, for messages
 * @throws BackupError `object-damaged` as `decompress` does, and when there is more than `maxBytes`
 */
export function decompressBytes(
  codec: Codec,
  bytes: Uint8Array,
  maxBytes: number,
  name?: string,
): Promise<Uint8Array> {
  const options = { signal: NEVER, ...(name === undefined ? {} : { name }) };
  return collectBytes(decompress(codec, piecesOf(bytes), options), maxBytes, name ?? `the ${codec} object`);
}

const NEVER = new AbortController().signal;
const withLevel = (level: number | undefined) => ({
  signal: NEVER,
  ...(level === undefined ? {} : { level }),
});

function compressed(codec: Codec, bytes: Closable<Uint8Array>, level?: number): AsyncIterable<Uint8Array> {
  switch (codec) {
    case 'none':
      return bytes;
    case 'gzip':
    case 'zstd':
      return zlibCompress(codec, bytes, level);
    case 'lz4':
      return lz4Compress(bytes);
    case 'bzip2':
      return bzip2Compress(bytes, level ?? BZIP2_LEVEL);
    case 'snappy':
      return snappyCompress(piecesOfSize(bytes, SNAPPY_BLOCK));
    case 'xz':
      return xzCompress(joinedPieces(bytes, WORTH_A_CALL), level ?? XZ_PRESET);
  }
}

function decompressed(codec: Codec, bytes: Closable<Uint8Array>, name: string): AsyncIterable<Uint8Array> {
  switch (codec) {
    case 'none':
      return bytes;
    case 'gzip':
    case 'zstd':
      return zlibDecompress(codec, bytes, name);
    case 'lz4':
      return lz4Decompress(bytes, name);
    case 'bzip2':
      return bzip2Decompress(bytes, name);
    case 'snappy':
      return snappyDecompress(bytes, name);
    case 'xz':
      return xzDecompress(bytes, name);
  }
}

/** Short pieces are joined up to this: each piece costs a turn of the thread pool. */
const WORTH_A_CALL = 64 << 10;
const OUTPUT_BYTES = 64 << 10;
/** All that the framing allows: the encoder would cut longer pieces elsewhere. */
const SNAPPY_BLOCK = 64 << 10;
const GZIP_LEVEL = 6;
const ZSTD_LEVEL = 3;
/** The largest blocks, as base backups of barman-cloud have them; the smaller ones of its WAL are larger by 1 %. */
const BZIP2_LEVEL = 9;
/** barman-cloud's own: the next ones take twice the time for a few percent. */
const XZ_PRESET = 3;

function zlibCompress(codec: 'gzip' | 'zstd', source: AsyncIterable<Uint8Array>, level?: number) {
  const engine = codec === 'gzip' ? gzipEngine(level ?? GZIP_LEVEL) : zstdEngine(level ?? ZSTD_LEVEL);
  return throughEngine(engine, createFeed(released(joinedPieces(source, WORTH_A_CALL))));
}

const gzipEngine = (level: number): ZlibEngine => createGzip({ level, chunkSize: OUTPUT_BYTES });

const zstdEngine = (level: number): ZlibEngine =>
  createZstdCompress({
    chunkSize: OUTPUT_BYTES,
    params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 },
  });

async function* zlibDecompress(codec: 'gzip' | 'zstd', source: AsyncIterator<Uint8Array>, name: string) {
  const create: () => ZlibEngine =
    codec === 'gzip'
      ? () => createGunzip({ chunkSize: OUTPUT_BYTES })
      : () => createZstdDecompress({ chunkSize: OUTPUT_BYTES });
  const feed = createFeed(source);
  try {
    // an engine may stop after one frame: the next one takes what is left, and refuses what is no frame
    for (let first = await feed.next(), any = false; first !== undefined || !any; first = await feed.next()) {
      any = true;
      if (first !== undefined) feed.putBack(first);
      yield* throughEngine(create(), feed);
    }
  } catch (error) {
    throw isZlibError(error)
      ? new BackupError('object-damaged', `${name} does not decompress as ${codec}: ${messageOf(error)}`, {
          cause: error,
        })
      : error;
  }
}

/** Errors of node:zlib carry codes like `Z_DATA_ERROR`, `Z_BUF_ERROR`, `ZSTD_error_checksum_wrong`. */
function isZlibError(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    /^(Z_|ZSTD_)/.test(error.code)
  );
}
