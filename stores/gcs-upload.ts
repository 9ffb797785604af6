import { isBackupError } from '../core/errors.ts';
import { odd, pause } from './gcs-client.ts';
import type { GcsAnswer, GcsConnection, GcsPlace } from './gcs-client.ts';
import { crc32c, crc32cText } from './gcs-crc32c.ts';
import { field } from './gcs-errors.ts';

const MiB = 1024 * 1024;
/** Bodies that are in memory go in one request up to here: a segment of WAL does. */
export const WHOLE_BYTES = 16 * MiB;
/**
 * Others do up to here; beyond, this is the size of a chunk. One is on its way, the next is known, and one more is read
 * meanwhile: an upload holds three, whatever its size. Google takes multiples of 256 KiB.
 */
export const CHUNK_BYTES = 8 * MiB;
/** How often an upload is continued without the store having taken a byte more. */
const FRUITLESS_RESUMES = 4;
const CLEAN_UP_MS = 15_000;
const GRACE_MS = 1000;
/** "Resume incomplete": the store wants more. */
const INCOMPLETE = 308;
const LOST = [404, 410];

/** What a new object is given beside its bytes, and under which condition it is stored. */
export interface GcsAttributes {
  readonly metadata: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string | undefined>>;
}

/** One object that is being written. */
export interface GcsTarget extends GcsAttributes {
  readonly place: GcsPlace;
  readonly key: string;
  readonly signal: AbortSignal;
  /** The record of the object at the target if this very put made it; asked when an answer was lost. */
  readonly findOwn: () => Promise<unknown>;
}

const CONTENT_TYPE = 'application/octet-stream';

/** Stores `body` by one request. @throws BackupError as `ObjectStore.put` */
export async function uploadAtOnce(
  connection: GcsConnection,
  target: GcsTarget,
  body: Uint8Array,
): Promise<void> {
  const { place, key, query, metadata, signal } = target;
  const what = `put ${place.named(key)}`;
  const checksum = crc32cText(crc32c(body));
  const record = { name: place.root + key, contentType: CONTENT_TYPE, metadata, crc32c: checksum };
  // random, so that it does not occur in the body
  const boundary = `walkeep-${crypto.randomUUID()}`;
  const head = `--${boundary}\r\ncontent-type: application/json; charset=utf-8\r\n\r\n${JSON.stringify(record)}\r\n--${boundary}\r\ncontent-type: ${CONTENT_TYPE}\r\n\r\n`;
  await confirmed(connection, target, { total: body.length, checksum }, async () => {
    const { json } = await connection.call(what, {
      method: 'POST',
      path: `/upload/storage/v1/b/${encodeURIComponent(place.bucket)}/o`,
      query: { uploadType: 'multipart', ...query },
      headers: { 'content-type': `multipart/related; boundary=${boundary}` },
      body: [Buffer.from(head), body, Buffer.from(`\r\n--${boundary}--\r\n`)],
      signal,
    });
    return json;
  });
}

/** A body in chunks, all but the last of them `CHUNK_BYTES` long. */
interface ChunkedBody {
  readonly source: AsyncIterator<Uint8Array, void, void>;
  /** Takes back a chunk that the store has. */
  readonly release: (chunk: Uint8Array) => void;
  /** Of the whole, when it is known. */
  readonly sizeBytes: number | undefined;
}

/**
 * Uploads a body of at least two chunks as one object. It appears when the last chunk was
 * taken and its checksum was right; when anything fails the upload is cancelled, and nothing is stored.
 */
export async function uploadChunks(
  connection: GcsConnection,
  target: GcsTarget,
  { source, release, sizeBytes }: ChunkedBody,
): Promise<{ sizeBytes: number }> {
  const what = `put ${target.place.named(target.key)}`;
  const address = await beginUpload(connection, target, sizeBytes);
  const send = (chunk: Chunk) => sendChunk(connection, target, address, chunk);
  let checksum = 0;
  let offset = 0;
  try {
    target.signal.throwIfAborted();
    let current = await source.next();
    // whether a chunk is the last one has to be said with it
    let next = await source.next();
    while (current.done !== true && next.done !== true) {
      // the source is read while the store is written
      const after = source.next();
      after.catch(() => undefined);
      checksum = crc32c(current.value, checksum);
      const stored = await send({ offset, bytes: current.value });
      if (stored !== undefined) throw odd(what, 'it was ended by the store before all was sent');
      offset += current.value.length;
      release(current.value);
      [current, next] = [next, await after];
    }
    const bytes = current.done === true ? new Uint8Array(0) : current.value;
    const end = { total: offset + bytes.length, checksum: crc32cText(crc32c(bytes, checksum)) };
    await confirmed(connection, target, end, () => send({ offset, bytes, end }));
    return { sizeBytes: end.total };
  } catch (error) {
    await cancelUpload(connection, address, what);
    throw error;
  }
}

/**
 * Runs the request that makes the object, and checks what it made. One that was carried out is refused or unknown the
 * second time, and its first answer may be lost: the object itself tells then.
 */
async function confirmed(
  connection: GcsConnection,
  target: GcsTarget,
  expected: Whole,
  make: () => Promise<unknown>,
): Promise<void> {
  let record: unknown;
  try {
    record = await make();
  } catch (error) {
    if (target.signal.aborted || !isBackupError(error, 'already-exists', 'store-unavailable')) throw error;
    record = await target.findOwn();
    if (record === undefined) throw error;
  }
  const { place, key } = target;
  const checksum = field(record, 'crc32c');
  // an emulator may have none
  const isRight = checksum === undefined || checksum === expected.checksum;
  if (field(record, 'size') === String(expected.total) && isRight) return;
  await removeStored(connection, target, record);
  throw odd(`put ${place.named(key)}`, `what was stored is not what was sent, and was removed`);
}

/** Removes an object that should not be, and no later one. */
async function removeStored(
  connection: GcsConnection,
  { place: { bucket, root, named }, key }: GcsTarget,
  record: unknown,
): Promise<void> {
  const generation = field(record, 'generation');
  if (typeof generation !== 'string') return;
  await connection
    .call(`remove ${named(key)}`, {
      method: 'DELETE',
      path: `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(root + key)}`,
      query: { ifGenerationMatch: generation },
      signal: AbortSignal.timeout(CLEAN_UP_MS),
    })
    // the failure that led here is the one to report
    .catch(() => undefined);
}

/** An upload whose address is not known can't be cancelled: after an abort, the answer is waited for a little. */
async function beginUpload(
  connection: GcsConnection,
  { place, key, query, metadata, signal }: GcsTarget,
  sizeBytes: number | undefined,
): Promise<string> {
  const what = `put ${place.named(key)}`;
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => late.abort(signal.reason), GRACE_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const record = { name: place.root + key, contentType: CONTENT_TYPE, metadata };
    const { headers } = await connection.call(what, {
      method: 'POST',
      path: `/upload/storage/v1/b/${encodeURIComponent(place.bucket)}/o`,
      query: { uploadType: 'resumable', name: place.root + key, ...query },
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'x-upload-content-type': CONTENT_TYPE,
        ...(sizeBytes === undefined ? {} : { 'x-upload-content-length': String(sizeBytes) }),
      },
      body: [Buffer.from(JSON.stringify(record))],
      signal: late.signal,
    });
    if (headers.location === undefined || !URL.canParse(headers.location)) {
      throw odd(what, 'the answer does not say where the upload goes');
    }
    return headers.location;
  } finally {
    signal.removeEventListener('abort', onAbort);
    clearTimeout(timer);
  }
}

/** Size and checksum of the whole object. */
interface Whole {
  readonly total: number;
  readonly checksum: string;
}

interface Chunk {
  /** The place of its first byte in the object. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** Of the last chunk. */
  readonly end?: Whole;
}

/**
 * Sends a chunk until the store has all of it. After a request without an answer the store is asked what it has, and
 * gets the rest.
 *
 * @returns the record of the object, of the last chunk only
 */
async function sendChunk(
  connection: GcsConnection,
  { place, key, signal }: GcsTarget,
  address: string,
  { offset, bytes, end }: Chunk,
): Promise<unknown> {
  const what = `put ${place.named(key)}`;
  const total = end === undefined ? '*' : String(end.total);
  let taken = 0;
  let asking = false;
  for (let fruitless = 0; ;) {
    const rest = asking ? bytes.subarray(bytes.length) : bytes.subarray(taken);
    const from = offset + taken;
    const range = rest.length === 0 ? `bytes */${total}` : `bytes ${from}-${from + rest.length - 1}/${total}`;
    let answer: GcsAnswer;
    try {
      answer = await connection.call(what, {
        method: 'PUT',
        path: address,
        headers: { 'content-range': range, ...(end && { 'x-goog-hash': `crc32c=${end.checksum}` }) },
        body: [rest],
        accepts: [INCOMPLETE, ...LOST],
        tries: 1,
        signal,
      });
    } catch (error) {
      if (!isBackupError(error, 'store-unavailable') || ++fruitless > FRUITLESS_RESUMES) throw error;
      asking = true;
      await pause(fruitless, signal);
      continue;
    }
    if (LOST.includes(answer.status))
      throw odd(what, `the store has lost the upload, status ${answer.status}`);
    if (answer.status !== INCOMPLETE) return answer.json;
    const has = bytesTaken(answer, what) - offset;
    if (has < taken || has > bytes.length) {
      throw odd(what, `the store has ${has + offset} bytes of it, after it had taken ${offset + taken}`);
    }
    if (has > taken) fruitless = 0;
    else if (!asking) {
      if (++fruitless > FRUITLESS_RESUMES) throw odd(what, 'the store takes no more of it');
      await pause(fruitless, signal);
    }
    taken = has;
    asking = false;
    if (taken === bytes.length && end === undefined) return undefined;
  }
}

/** What the store says it has of an upload: `range: bytes=0-99`, or nothing at all. */
function bytesTaken({ headers }: GcsAnswer, what: string): number {
  const { range } = headers;
  if (range === undefined) return 0;
  const last = /^(?:bytes=)?0-(\d{1,15})$/.exec(range)?.[1];
  if (last === undefined) throw odd(what, 'the answer does not say how much the store has of it');
  return Number(last) + 1;
}

async function cancelUpload(connection: GcsConnection, address: string, what: string): Promise<void> {
  await connection
    .call(`cancel the upload of ${what}`, {
      method: 'DELETE',
      path: address,
      // Google answers 499, "client closed request"
      accepts: [499, ...LOST],
      // the caller's signal may be the reason why this is needed
      signal: AbortSignal.timeout(CLEAN_UP_MS),
    })
    // the failure that led here is the one to report; Google drops what is unfinished after a week
    .catch(() => undefined);
}
