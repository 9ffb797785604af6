import type { DataConverter, Payload, PayloadCodec } from '@temporalio/common';
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { BackupError, messageOf } from '../core/errors.ts';
import { decodePayload, encodePayload } from './payload-wire.ts';

/**
 * Encryption of what Temporal stores, for those who do not run its server themselves: inputs, results, heartbeats,
 * memos, summaries, and the messages of failures. Ids, types, queues and search attributes stay readable: the server
 * works with them. In the form of Temporal's own samples, so that other tools with the same key read it.
 */

/** A key of AES-256-GCM under the name that each payload carries. */
export interface PayloadKey {
  readonly id: string;
  readonly bytes: Buffer;
}

/** The value of a payload's `encoding` that says: encrypted. */
export const ENCRYPTED = 'binary/encrypted';

const KEY_ID = 'encryption-key-id';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HOW =
  'one line ID=KEY for each key, KEY being 32 bytes in base64 (openssl rand -base64 32), the one to write with first';

/**
 * The keys that `WALKEEP_PAYLOAD_KEY` or the file `WALKEEP_PAYLOAD_KEY_FILE` names; the first writes, all read. None
 * when neither is set.
 *
 * @throws BackupError `config-invalid`; no message holds any part of a key
 */
export function readPayloadKeys(environment: NodeJS.ProcessEnv): readonly PayloadKey[] {
  const text = environment['WALKEEP_PAYLOAD_KEY'];
  const file = environment['WALKEEP_PAYLOAD_KEY_FILE'];
  if (text !== undefined && file !== undefined) {
    throw refuse('WALKEEP_PAYLOAD_KEY and WALKEEP_PAYLOAD_KEY_FILE are both set', 'set one of them');
  }
  if (text !== undefined) return parseKeys(text, 'WALKEEP_PAYLOAD_KEY');
  if (file !== undefined) return parseKeys(readKeyFile(file), `the key file ${file}`);
  return [];
}

/** What client and worker convert payloads with. Without keys nothing is encrypted, and what is encrypted is refused. */
export function payloadConversion(environment: NodeJS.ProcessEnv): PayloadConversion {
  const keys = readPayloadKeys(environment);
  const codec = createPayloadCodec(keys);
  return {
    codec,
    encrypts: keys.length > 0,
    dataConverter: {
      payloadCodecs: [codec],
      ...(keys.length > 0 && { failureConverterPath: failureConverterPath() }),
    },
  };
}

export interface PayloadConversion {
  readonly codec: PayloadCodec;
  readonly encrypts: boolean;
  readonly dataConverter: DataConverter;
}

/** Where the converter is that also hides the messages of failures; the bundle of the workflows needs it, too. */
export function failureConverterPath(): string {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return fileURLToPath(new URL(`../workflows/failure-converter.${extension}`, import.meta.url));
}

/**
 * Encrypts with the first key, decrypts with the one that a payload names. What is not encrypted passes as it is:
 * people start workflows with plain JSON.
 */
export function createPayloadCodec(keys: readonly PayloadKey[]): PayloadCodec {
  const [current] = keys;
  const byId = new Map(keys.map((key) => [key.id, key]));
  return {
    encode: async (payloads) => (current ? payloads.map((payload) => encrypt(payload, current)) : payloads),
    decode: async (payloads) => payloads.map((payload) => decrypt(payload, byId)),
  };
}

function encrypt(payload: Payload, { id, bytes }: PayloadKey): Payload {
  if (isEncrypted(payload)) return payload;
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', bytes, nonce);
  const data = Buffer.concat([nonce, cipher.update(encodePayload(payload)), cipher.final()]);
  return {
    metadata: { encoding: Buffer.from(ENCRYPTED), [KEY_ID]: Buffer.from(id) },
    data: Buffer.concat([data, cipher.getAuthTag()]),
  };
}

function decrypt(payload: Payload, keys: ReadonlyMap<string, PayloadKey>): Payload {
  if (!isEncrypted(payload)) return payload;
  const id = Buffer.from(payload.metadata?.[KEY_ID] ?? []).toString();
  const key = keys.get(id);
  if (!key) {
    const has = keys.size === 0 ? 'none' : [...keys.keys()].map((name) => `"${name}"`).join(', ');
    throw missing(`a payload is encrypted with the key "${id.slice(0, 64)}", and this process has ${has}`);
  }
  const data = Buffer.from(payload.data ?? []);
  try {
    const decipher = createDecipheriv('aes-256-gcm', key.bytes, data.subarray(0, NONCE_BYTES), {
      authTagLength: TAG_BYTES,
    });
    decipher.setAuthTag(data.subarray(-TAG_BYTES));
    const sealed = data.subarray(NONCE_BYTES, -TAG_BYTES);
    return decodePayload(Buffer.concat([decipher.update(sealed), decipher.final()]));
  } catch (cause) {
    throw missing(
      `a payload can't be decrypted with the key "${id}" of this process: it is another key, or the data is damaged`,
      cause,
    );
  }
}

export function isEncrypted(payload: Payload): boolean {
  return encodingOf(payload) === ENCRYPTED;
}

function encodingOf({ metadata }: Payload): string {
  return Buffer.from(metadata?.['encoding'] ?? []).toString();
}

function missing(message: string, cause?: unknown): BackupError {
  return new BackupError('secret-missing', message, {
    cause,
    hint: 'give this process the same keys as those that wrote it: WALKEEP_PAYLOAD_KEY_FILE. Nothing is lost: what waits for the key goes on with it',
  });
}

function readKeyFile(file: string): string {
  try {
    // Others than owner and group: Kubernetes mounts with the pod's group.
    if ((statSync(file).mode & 0o007) !== 0) {
      throw refuse(`everybody on this host can open the key file ${file}`, `chmod o= ${file}`);
    }
    return readFileSync(file, 'utf8');
  } catch (cause) {
    if (cause instanceof BackupError) throw cause;
    throw refuse(
      `the key file ${file} can't be read: ${messageOf(cause)}`,
      'correct WALKEEP_PAYLOAD_KEY_FILE',
      cause,
    );
  }
}

function parseKeys(text: string, where: string): PayloadKey[] {
  const lines = text
    .split(/[\n,]/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  // Set and empty is what a template without its value leaves: no reason to write in plain text.
  if (lines.length === 0) throw refuse(`${where} holds no key`);
  const keys = lines.map((line, index) => parseKey(line, `${where}, key ${index + 1}`));
  const twice = keys.find(({ id }, index) => keys.findIndex((other) => other.id === id) !== index);
  if (twice) throw refuse(`${where} holds two keys named "${twice.id}"`);
  return keys;
}

function parseKey(line: string, where: string): PayloadKey {
  const [, named, text = ''] =
    /^(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s*[=:]\s*)?([A-Za-z0-9+/]{43}=)$/.exec(line) ?? [];
  const bytes = Buffer.from(text, 'base64');
  if (bytes.length !== KEY_BYTES) throw refuse(`${where} is not 32 bytes in base64`);
  return { id: named ?? fingerprintOf(bytes), bytes };
}

/** Names a key that has no name: tells nothing of a key that was drawn at random. */
function fingerprintOf(bytes: Buffer): string {
  return createHash('sha256').update('walkeep payload key\0').update(bytes).digest('hex').slice(0, 12);
}

function refuse(message: string, hint = HOW, cause?: unknown): BackupError {
  return new BackupError('config-invalid', message, { hint, cause });
}
