import { randomUUID } from 'node:crypto';
import { BackupError } from '../core/errors.ts';
import { ownKey } from './layout.ts';
import type { Repository } from './repository.ts';
import { utf8 } from './small-object.ts';

/**
 * What time it is at the store. Ages of objects are compared with this and never with a host's own clock, which may be
 * days off (D6). It writes one small object, always the same.
 *
 * @throws what the store throws
 */
export async function storeTime(r: Repository, signal: AbortSignal): Promise<Date> {
  const key = ownKey(r.server, 'clock');
  const bytes = utf8(`${randomUUID()}\n`);
  await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
  const stored = await r.store.head(key, { signal });
  if (stored === undefined) {
    throw new BackupError('store-unavailable', `${r.url}: ${key} was stored and is not there`);
  }
  return stored.modifiedAt;
}
